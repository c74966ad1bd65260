const choices = Dict(
    :factorization => (sqrt = 0, orthonormal = 1, power = 2),
    :svd => (full = 0, randomized = 1),
    :init => (zeros = 0, random = 1, gaussian = 3),
    :center => (auto = 0, on = 1, off = 2),
)
# Fields that are set from something else.
const own = (
    :struct_size, :reserved, :kind, :r, :dimension, :tau_auto, :validation, :warm_start, :loss, :kernel, :landmarks, :n_landmarks, :similarity, :stages, :n_stages,
    :n_whiten, :n_powers, :n_widths, :family, :progress, :progress_user,
)

# A value of a field's type, or an error that names the field.
function converted(name, type, value)
    fits = type <: AbstractFloat ? value isa Real && !(value isa Bool) : type <: Integer ? value isa Real : true
    fits || throw(ArgumentError("$name: expected $(type <: Integer ? "an integer" : "a number"), got $(repr(value))"))
    try
        return convert(type, value)
    catch e
        e isa InexactError || rethrow()
        throw(ArgumentError("$name: expected a value of $type, got $value"))
    end
end

# Sets the field that an option names. What it points to is part of the solver, which the calls preserve.
function assign!(raw::T, name::Symbol, value) where {T}
    known = filter(field -> !(field in own), fieldnames(T))
    name in known || throw(ArgumentError("$name: expected one of $(join(known, ", "))"))
    value === nothing && return raw
    if name in (:damping, :refine, :minibatch)
        value = pointer_from_objref(prepared(value).raw)
    elseif name === :checkpoint
        value isa String && !occursin('\0', value) || throw(ArgumentError("checkpoint: expected a path, got $(repr(value))"))
        value = pointer(value)
    elseif value isa Symbol
        haskey(choices, name) || throw(ArgumentError("$name: expected a number, got $value"))
        value = choose(name, value, choices[name])
    end
    return setproperty!(raw, name, converted(name, fieldtype(T, name), value))
end

function set!(raw, options)
    foreach(p -> assign!(raw, p...), options)
    return raw
end

"""
    Loss(kind = :clip; tau, nu, margin, eps_pos, eps_neg, log_eps)

A loss: `:clip`, `:sigmoid`, `:triplet_hard` or `:triplet_smooth`. The value and gradients of clip are `tau` times those of open_clip.
"""
struct Loss
    raw::Loss_t
    function Loss(kind::Symbol = :clip; parameters...)
        raw = Loss_t()
        check(c_loss_init(raw, choose("loss", kind, (clip = 0, sigmoid = 1, triplet_hard = 2, triplet_smooth = 3))))
        set!(raw, parameters)
        return new(raw)
    end
end

"""
    Kernel(kind; beta, gamma, lengthscale, cos_clamp)

A kernel: `:linear`, `:cosine`, `:angular`, `:arccos`, `:exp_cosine`, `:rbf` or `:matern32`; of [`KernelUniCon`](@ref) also `:precomputed`,
where the values of any kernel take the place of features: Gram matrices `n × n` in `fit`, and `n × n_new` values with all samples of the fit in
[`encode`](@ref).
"""
struct Kernel
    raw::Kernel_t
    function Kernel(kind::Symbol; parameters...)
        raw = Kernel_t()
        kinds = (linear = 0, cosine = 1, angular = 2, arccos = 3, exp_cosine = 4, rbf = 5, matern32 = 6, precomputed = 7)
        check(c_kernel_init(raw, choose("kernel", kind, kinds)))
        set!(raw, parameters)
        return new(raw)
    end
end

"""
    Damping(; first, halvings, tol)

Damped updates with a line search on the loss: the option `damping` of [`LinearUniCon`](@ref).
"""
struct Damping
    raw::Damping_t
    function Damping(; parameters...)
        raw = Damping_t()
        check(c_damping_init(raw))
        set!(raw, parameters)
        return new(raw)
    end
end

"""
    Minibatch(; batch, epochs, min_steps, max_steps, rate, momentum, patience)

Descent on mini-batches: the option `minibatch` of [`BestUniCon`](@ref). A `batch` of 0 is none.
"""
struct Minibatch
    raw::Minibatch_t
    function Minibatch(; parameters...)
        raw = Minibatch_t()
        check(c_minibatch_init(raw))
        set!(raw, parameters)
        return new(raw)
    end
end

"""
    Refine(; stages = Int[], max_steps, tol, memory, patience, first_step)

Refinement by L-BFGS: the option `refine` of [`LinearUniCon`](@ref) and [`BestUniCon`](@ref). `stages` are the negatives per sample
in each stage in turn, 0 for all of them.
"""
struct Refine
    raw::Refine_t
    stages::Vector{Int64}
    function Refine(; stages = Int64[], parameters...)
        raw = Refine_t()
        check(c_refine_init(raw))
        set!(raw, parameters)
        return new(raw, whole("stages", stages))
    end
end

# A struct whose pointers are those of its own arrays, also where it is a copy of another.
prepared(part) = part
function prepared(refine::Refine)
    isempty(refine.stages) || ((refine.raw.stages, refine.raw.n_stages) = (pointer(refine.stages), length(refine.stages)))
    return refine
end
