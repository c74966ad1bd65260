"""
    Weights(Zx, Zy; loss = Loss(), positives = nothing, n_negatives = 0, seed = 0, context = nothing)
    Weights(s; loss = Loss(), positives = nothing, n_negatives = 0, seed = 0, context = nothing)

`S(γ) = -∂L/∂s` of embeddings with unit columns (`r × n`), as an operator: [`value`](@ref), [`apply`](@ref), [`apply_transpose`](@ref),
[`cross_covariance`](@ref), [`dense`](@ref). `s` is a matrix of cosines, `n_x × n_y`, for small n. With `n_negatives` above 0 so
many negatives per sample of each side are drawn, with `seed`, and stand for all. Copies are the operator itself.
"""
mutable struct Weights
    handle::Ptr{Cvoid}
    context::Context
    n_x::Int
    n_y::Int
    function Weights(Zx, Zy; loss::Loss = Loss(), positives = nothing, n_negatives::Integer = 0, seed::Integer = 0,
                     context::Union{Nothing,Context} = nothing)
        Zx, Zy = readable("Zx", Zx), readable("Zy", Zy)
        pairs = Pairs(Zx, Zy, Positives(positives, size(Zx, 2), size(Zy, 2)))
        options = weights_options(loss, n_negatives, seed)
        return on(context) do c
            handle = Ref{Ptr{Cvoid}}(C_NULL)
            GC.@preserve pairs loss check(c_weights_create(c.handle, options, pairs.raw, handle), c.handle)
            finalizer(w -> c_weights_destroy(w.handle), new(handle[], c, size(Zx, 2), size(Zy, 2)))
        end
    end
    function Weights(s; loss::Loss = Loss(), positives = nothing, n_negatives::Integer = 0, seed::Integer = 0,
                     context::Union{Nothing,Context} = nothing)
        s = readable("s", s)
        options = weights_options(loss, n_negatives, seed)
        p = Positives(positives, size(s, 1), size(s, 2))
        return on(context) do c
            handle = Ref{Ptr{Cvoid}}(C_NULL)
            GC.@preserve s p loss check(c_weights_create_similarity(c.handle, options, plain(s), p.raw, handle), c.handle)
            finalizer(w -> c_weights_destroy(w.handle), new(handle[], c, size(s, 1), size(s, 2)))
        end
    end
end

# What is asked of weights; borrows the loss.
function weights_options(loss::Loss, n_negatives, seed)
    options = WeightsOptions_t()
    check(c_weights_options_init(options))
    options.loss = pointer_from_objref(loss.raw)
    options.n_negatives = converted(:n_negatives, Int64, n_negatives)
    options.seed = converted(:seed, UInt64, seed)
    return options
end

Base.copy(w::Weights) = w
Base.deepcopy_internal(w::Weights, ::IdDict) = w

"""
    value(weights)

The loss L.
"""
function value(w::Weights)
    out, rows, cols = Ref(0.0), Ref(0.0), Ref(0.0)
    on(c -> GC.@preserve(w, check(c_weights_loss(w.handle, out, rows, cols), c.handle)), w.context)
    return out[]
end

"""
    unmatched(weights) -> (x, y)

How many samples of each side match nothing, and so contribute nothing.
"""
function unmatched(w::Weights)
    rows, cols = Ref{Int64}(0), Ref{Int64}(0)
    on(c -> GC.@preserve(w, check(c_weights_unmatched(w.handle, rows, cols), c.handle)), w.context)
    return Int(rows[]), Int(cols[])
end

"""
    dense(weights)

S itself, `n_x × n_y`; for small n.
"""
function dense(w::Weights)
    out = Matrix{Float64}(undef, w.n_x, w.n_y)
    on(c -> GC.@preserve(w, out, check(c_weights_dense(w.handle, plain(out)), c.handle)), w.context)
    return out
end

"""
    apply(weights, V)

`V Sᵀ`: column i is `Σ_j S_ij v_j`, for `V` of `c × n_y`.
"""
function apply(w::Weights, V)
    V = readable("V", V)
    out = Matrix{wider(V, V)}(undef, size(V, 1), w.n_x)
    on(c -> GC.@preserve(w, V, out, check(c_weights_apply(w.handle, samples(V), samples(out)), c.handle)), w.context)
    return out
end

"""
    apply_transpose(weights, U)

`U S`: column j is `Σ_i S_ij u_i`, for `U` of `c × n_x`.
"""
function apply_transpose(w::Weights, U)
    U = readable("U", U)
    out = Matrix{wider(U, U)}(undef, size(U, 1), w.n_y)
    on(c -> GC.@preserve(w, U, out, check(c_weights_apply_transpose(w.handle, samples(U), samples(out)), c.handle)), w.context)
    return out
end

"""
    cross_covariance(weights, X, Y)

The contrastive cross-covariance `X S Yᵀ`, `d1 × d2`.
"""
function cross_covariance(w::Weights, X, Y)
    X, Y = readable("X", X), readable("Y", Y)
    out = Matrix{Float64}(undef, size(X, 1), size(Y, 1))
    on(c -> GC.@preserve(w, X, Y, out, check(c_weights_cross(w.handle, samples(X), samples(Y), plain(out)), c.handle)), w.context)
    return out
end

"""
    contrastive_grad(Zx, Zy; loss = Loss(), positives = nothing, n_negatives = 0, seed = 0, context = nothing) -> (value, dZx, dZy)

The loss of embeddings with unit columns and its gradients: a loss layer for neural encoders. Those of clip are `tau` times open_clip's.
`n_negatives` and `seed` as for [`Weights`](@ref).
"""
function contrastive_grad(Zx, Zy; loss::Loss = Loss(), positives = nothing, n_negatives::Integer = 0, seed::Integer = 0,
                          context::Union{Nothing,Context} = nothing)
    Zx, Zy = readable("Zx", Zx), readable("Zy", Zy)
    pairs = Pairs(Zx, Zy, Positives(positives, size(Zx, 2), size(Zy, 2)))
    options = weights_options(loss, n_negatives, seed)
    dZx, dZy = Matrix{wider(Zx, Zy)}(undef, size(Zx)), Matrix{wider(Zx, Zy)}(undef, size(Zy))
    out = Ref(0.0)
    on(context) do c
        GC.@preserve pairs dZx dZy loss begin
            check(c_contrastive_grad(c.handle, options, pairs.raw, out, samples(dZx), samples(dZy)), c.handle)
        end
    end
    return out[], dZx, dZy
end
