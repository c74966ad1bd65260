"""
    Context(; device, device_id, devices, n_threads, precision, workspace_limit)

A device (`:cpu`, `:cuda` or `:auto`), its threads and its limits; what is not given is the library's default. `precision` is that of
similarities and weights where features are not float64: `:float32`, `:bfloat16`, on CUDA also `:float16`. Over several
`devices`, such as `Context(device = :cuda, devices = [0, 2])`, fits share the samples out, a thread each; every other call works on
the first. Calls on one context wait for
each other. Calls that are given none take one that is free, so that any number of threads may call at once.
"""
mutable struct Context
    handle::Ptr{Cvoid}
    turn::ReentrantLock
    function Context(; device::Symbol = :default, devices = Int32[], precision::Symbol = :default, options...)
        raw = ContextOptions_t()
        check(c_context_options_init(raw))
        device === :default || (raw.device_type = choose("device", device, (auto = 0, cpu = 1, cuda = 2)))
        precision === :default || (raw.precision = choose("precision", precision, (float32 = 1, float16 = 3, bfloat16 = 4)))
        for (name, value) in options
            name in (:device_id, :n_threads, :workspace_limit) ||
                throw(ArgumentError("$name: expected one of device, device_id, devices, n_threads, precision, workspace_limit"))
            setproperty!(raw, name, converted(name, fieldtype(ContextOptions_t, name), value))
        end
        handle = Ref{Ptr{Cvoid}}(C_NULL)
        numbers = [converted(:devices, Int32, number) for number in devices]
        GC.@preserve numbers begin
            isempty(numbers) || ((raw.devices, raw.n_devices) = (pointer(numbers), length(numbers)))
            check(c_context_create(raw, handle))
        end
        return finalizer(c -> c_context_destroy(c.handle), new(handle[], ReentrantLock()))
    end
end

# Contexts that nobody is at work on, for calls that are given none.
const idle = Context[]
const idle_lock = ReentrantLock()

"""
    on(f, context)

`f` of a context that is this task's until `f` ends: the one given, or, for `nothing`, one on the CPU that nobody uses.
"""
on(f, context::Context) = lock(() -> f(context), context.turn)
function on(f, ::Nothing)
    context = lock(() -> isempty(idle) ? nothing : pop!(idle), idle_lock)
    context === nothing && (context = Context())
    try
        return on(f, context)
    finally
        lock(() -> push!(idle, context), idle_lock)
    end
end

"""
    cancel(context)

Stops the call in progress on a context; from any thread.
"""
cancel(context::Context) = (c_cancel(context.handle); nothing)

# Copies of what the library holds are the thing itself: it does not change, and is destroyed once.
Base.copy(c::Context) = c
Base.deepcopy_internal(c::Context, ::IdDict) = c
