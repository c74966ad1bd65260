"""
    Weights(Zx, Zy; loss = Loss(), positives = nothing, context = nothing)
    Weights(s; loss = Loss(), positives = nothing, context = nothing)

`S(γ) = -∂L/∂s` of embeddings with unit columns (`r × n`), as an operator: [`value`](@ref), [`apply`](@ref), [`apply_t`](@ref),
[`cross_covariance`](@ref), [`dense`](@ref). `s` is a matrix of cosines, `n_x × n_y`, for small n. Copies are the operator itself.
"""
mutable struct Weights
    handle::Ptr{Cvoid}
    context::Context
    n_x::Int
    n_y::Int
    function Weights(Zx, Zy; loss::Loss = Loss(), positives = nothing, context::Union{Nothing,Context} = nothing)
        Zx, Zy = readable("Zx", Zx), readable("Zy", Zy)
        p = Positives(positives, size(Zx, 2), size(Zy, 2))
        return on(context) do c
            handle = Ref{Ptr{Cvoid}}(C_NULL)
            GC.@preserve Zx Zy p loss begin
                check(c_weights_create(c.handle, loss.raw, samples(Zx), samples(Zy), p.raw, handle), c.handle)
            end
            finalizer(w -> c_weights_destroy(w.handle), new(handle[], c, size(Zx, 2), size(Zy, 2)))
        end
    end
    function Weights(s; loss::Loss = Loss(), positives = nothing, context::Union{Nothing,Context} = nothing)
        s = readable("s", s)
        p = Positives(positives, size(s, 1), size(s, 2))
        return on(context) do c
            handle = Ref{Ptr{Cvoid}}(C_NULL)
            GC.@preserve s p loss check(c_weights_create_similarity(c.handle, loss.raw, plain(s), p.raw, handle), c.handle)
            finalizer(w -> c_weights_destroy(w.handle), new(handle[], c, size(s, 1), size(s, 2)))
        end
    end
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
    apply_t(weights, U)

`U S`: column j is `Σ_i S_ij u_i`, for `U` of `c × n_x`.
"""
function apply_t(w::Weights, U)
    U = readable("U", U)
    out = Matrix{wider(U, U)}(undef, size(U, 1), w.n_y)
    on(c -> GC.@preserve(w, U, out, check(c_weights_apply_t(w.handle, samples(U), samples(out)), c.handle)), w.context)
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
    contrastive_grad(Zx, Zy; loss = Loss(), positives = nothing, context = nothing) -> (value, dZx, dZy)

The loss of embeddings with unit columns and its gradients: a loss layer for neural encoders. Those of clip are `tau` times open_clip's.
"""
function contrastive_grad(Zx, Zy; loss::Loss = Loss(), positives = nothing, context::Union{Nothing,Context} = nothing)
    Zx, Zy = readable("Zx", Zx), readable("Zy", Zy)
    p = Positives(positives, size(Zx, 2), size(Zy, 2))
    dZx, dZy = Matrix{wider(Zx, Zy)}(undef, size(Zx)), Matrix{wider(Zx, Zy)}(undef, size(Zy))
    out = Ref(0.0)
    on(context) do c
        GC.@preserve Zx Zy dZx dZy p loss begin
            status = c_contrastive_grad(c.handle, loss.raw, samples(Zx), samples(Zy), p.raw, out, samples(dZx), samples(dZy))
            check(status, c.handle)
        end
    end
    return out[], dZx, dZy
end
