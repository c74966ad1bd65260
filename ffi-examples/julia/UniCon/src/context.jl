on_warning(text::Cstring, told::Ptr{Cvoid}) = (push!(unsafe_pointer_to_objref(told)::Vector{String}, unsafe_string(text)); nothing)

"""
    Context(; device, device_id, devices, n_threads, precision, workspace_limit)

A device (`:cpu`, `:cuda` or `:auto`), its threads and its limits; what is not given is the library's default. `precision` is that of
similarities and weights where features are not float64: `:float32`, `:bfloat16`, on CUDA also `:float16`. Over several
`devices`, such as `Context(device = :cuda, devices = [0, 2])`, fits share the samples out, a thread each; every other call works on
the first. Calls on one context wait for
each other. Calls that are given none take one that is free, so that any number of threads may call at once.
What a call notices and a person may want to know (samples that repeat, that are zero or match nothing) comes as `@warn` when it has ended.
"""
mutable struct Context
    handle::Ptr{Cvoid}
    turn::ReentrantLock
    # What the library warned of in the call in progress.
    told::Vector{String}
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
        handle, told = Ref{Ptr{Cvoid}}(C_NULL), String[]
        raw.warning = @cfunction(on_warning, Cvoid, (Cstring, Ptr{Cvoid}))
        raw.warning_user = pointer_from_objref(told)
        numbers = [converted(:devices, Int32, number) for number in devices]
        GC.@preserve numbers begin
            isempty(numbers) || ((raw.devices, raw.n_devices) = (pointer(numbers), length(numbers)))
            check(c_context_create(raw, handle))
        end
        return finalizer(c -> c_context_destroy(c.handle), new(handle[], ReentrantLock(), told))
    end
end

# Contexts that nobody is at work on, for calls that are given none.
const idle = Context[]
const idle_lock = ReentrantLock()

"""
    on(f, context)

`f` of a context that is this task's until `f` ends: the one given, or, for `nothing`, one on the CPU that nobody uses.
"""
function on(f, context::Context)
    return lock(context.turn) do
        try
            f(context)
        finally
            # Not within the call, whose stack is the library's.
            while !isempty(context.told)
                @warn popfirst!(context.told)
            end
        end
    end
end
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

Ends one call on a context, which throws a `UniConError`: the one in progress or, where none is, the next; from any thread.
"""
cancel(context::Context) = (c_cancel(context.handle); nothing)

"""
    cancel_clear(context)

Takes back a cancellation that has ended no call yet.
"""
cancel_clear(context::Context) = (c_cancel_clear(context.handle); nothing)

# Copies of what the library holds are the thing itself: it does not change, and is destroyed once.
Base.copy(c::Context) = c
Base.deepcopy_internal(c::Context, ::IdDict) = c
