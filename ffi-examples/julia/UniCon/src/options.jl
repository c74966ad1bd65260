const choices = Dict(
    :factorization => (sqrt = 0, orthonormal = 1, power = 2),
    :svd => (full = 0, randomized = 1),
    :init => (zeros = 0, random = 1),
)
# Fields that are set from something else.
const own = (
    :struct_size, :reserved, :kind, :r, :rank, :tau_auto, :loss, :kernel, :landmarks, :n_landmarks, :similarity, :stages, :n_stages,
    :n_whiten, :n_powers, :n_widths, :progress, :progress_user,
)

# Sets the field that an option names. What it points to is part of the solver, which the calls preserve.
function assign!(raw::T, name::Symbol, value) where {T}
    known = filter(field -> !(field in own), fieldnames(T))
    name in known || throw(ArgumentError("$name: expected one of $(join(known, ", "))"))
    if name in (:damping, :refine, :minibatch)
        value = pointer_from_objref(value.raw)
    elseif name === :checkpoint
        value = pointer(value::String)
    elseif value isa Symbol
        haskey(choices, name) || throw(ArgumentError("$name: expected a number, got $value"))
        value = choose(name, value, choices[name])
    end
    return setproperty!(raw, name, convert(fieldtype(T, name), value))
end

function set!(raw, options)
    foreach(p -> assign!(raw, p...), options)
    return raw
end

"""
    Loss(kind = :clip; tau, nu, margin, eps_pos, eps_neg, log_eps)

A loss: `:clip`, `:sigmoid`, `:triplet_hard` or `:triplet_smooth`.
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
    Kernel(kind = :angular; beta, gamma, lengthscale, cos_clamp)

A kernel: `:linear`, `:cosine`, `:angular`, `:arccos`, `:exp_cosine`, `:rbf` or `:matern32`.
"""
struct Kernel
    raw::Kernel_t
    function Kernel(kind::Symbol = :angular; parameters...)
        raw = Kernel_t()
        kinds = (linear = 0, cosine = 1, angular = 2, arccos = 3, exp_cosine = 4, rbf = 5, matern32 = 6)
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
        raw, stages = Refine_t(), Vector{Int64}(stages)
        check(c_refine_init(raw))
        set!(raw, parameters)
        if !isempty(stages)
            raw.stages, raw.n_stages = pointer(stages), length(stages)
        end
        return new(raw, stages)
    end
end

# Positives: nothing is the diagonal, a tuple of two vectors are group ids, anything with colptr and rowval (a SparseMatrixCSC
# whose columns are the samples of X, `Y samples × X samples`) is CSR.
struct Positives
    raw::Positives_t
    arrays::Tuple{Vector{Int64},Vector{Int64}}
end

function Positives(positives, n_x::Int, n_y::Int)
    raw = Positives_t()
    check(c_positives_init(raw))
    positives === nothing && return Positives(raw, (Int64[], Int64[]))
    if positives isa Tuple
        arrays = (Vector{Int64}(positives[1]), Vector{Int64}(positives[2]))
        lengths = (length(arrays[1]), length(arrays[2]))
        lengths == (n_x, n_y) || throw(DimensionMismatch("positives: expected $((n_x, n_y)) group ids, got $lengths"))
        raw.kind = 1
        raw.x_groups, raw.y_groups = pointer(arrays[1]), pointer(arrays[2])
        return Positives(raw, arrays)
    end
    size(positives) == (n_y, n_x) ||
        throw(DimensionMismatch("positives: expected a $n_y × $n_x sparse matrix (columns are samples of X), got $(size(positives))"))
    arrays = (Vector{Int64}(positives.colptr) .- 1, Vector{Int64}(positives.rowval) .- 1)
    raw.kind, raw.nnz = 2, length(arrays[2])
    raw.indptr, raw.indices = pointer(arrays[1]), pointer(arrays[2])
    return Positives(raw, arrays)
end
