"""
    Context(; device = :cpu, device_id = 0, n_threads = 0, precision = :default, workspace_limit = 0)

A device (`:cpu`, `:cuda` or `:auto`), its threads and its limits. `precision` is that of similarities and weights where features are not
float64: `:float32`, `:bfloat16`, on CUDA also `:float16`. One call at a time; any number of contexts.
"""
mutable struct Context
    handle::Ptr{Cvoid}
    function Context(; device::Symbol = :cpu, device_id = 0, n_threads = 0, precision::Symbol = :default, workspace_limit = 0)
        options = ContextOptions_t()
        check(c_context_options_init(options))
        options.device_type = choose("device", device, (auto = 0, cpu = 1, cuda = 2))
        options.device_id, options.n_threads = device_id, n_threads
        options.precision = choose("precision", precision, (default = 0, float32 = 1, float16 = 3, bfloat16 = 4))
        options.workspace_limit = workspace_limit
        handle = Ref{Ptr{Cvoid}}(C_NULL)
        check(c_context_create(options, handle))
        return finalizer(c -> c_context_destroy(c.handle), new(handle[]))
    end
end

const default = Ref{Union{Nothing,Context}}(nothing)
"The context that calls use when they are given none: the CPU."
function default_context()
    default[] === nothing && (default[] = Context())
    return default[]::Context
end

"""
    cancel(context)

Stops the call in progress on a context; from any thread.
"""
cancel(context::Context) = (c_cancel(context.handle); nothing)
