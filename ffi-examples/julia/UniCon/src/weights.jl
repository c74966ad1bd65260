"""
    Weights(Zx, Zy; loss = Loss(), positives = nothing, context)
    Weights(s; loss = Loss(), positives = nothing, context)

`S(γ) = -∂L/∂s` of embeddings with unit columns (`r × n`), as an operator: [`value`](@ref), [`apply`](@ref), [`apply_t`](@ref),
[`cross_covariance`](@ref), [`dense`](@ref). `s` is a matrix of cosines, `n_x × n_y`, for small n.
"""
mutable struct Weights
    handle::Ptr{Cvoid}
    context::Context
    n_x::Int
    n_y::Int
    function Weights(Zx::StridedMatrix{<:Element}, Zy::StridedMatrix{<:Element}; loss::Loss = Loss(), positives = nothing, context::Context = default_context())
        p = Positives(positives, size(Zx, 2), size(Zy, 2))
        handle = Ref{Ptr{Cvoid}}(C_NULL)
        GC.@preserve Zx Zy p loss context begin
            check(c_weights_create(context.handle, loss.raw, samples(Zx), samples(Zy), p.raw, handle), context.handle)
        end
        return finalizer(w -> c_weights_destroy(w.handle), new(handle[], context, size(Zx, 2), size(Zy, 2)))
    end
    function Weights(s::StridedMatrix{<:Element}; loss::Loss = Loss(), positives = nothing, context::Context = default_context())
        p = Positives(positives, size(s, 1), size(s, 2))
        handle = Ref{Ptr{Cvoid}}(C_NULL)
        GC.@preserve s p loss context begin
            check(c_weights_create_similarity(context.handle, loss.raw, plain(s), p.raw, handle), context.handle)
        end
        return finalizer(w -> c_weights_destroy(w.handle), new(handle[], context, size(s, 1), size(s, 2)))
    end
end

"""
    value(weights)

The loss L.
"""
function value(w::Weights)
    out, rows, cols = Ref(0.0), Ref(0.0), Ref(0.0)
    GC.@preserve w check(c_weights_loss(w.handle, out, rows, cols), w.context.handle)
    return out[]
end

"""
    dense(weights)

S itself, `n_x × n_y`; for small n.
"""
function dense(w::Weights)
    out = Matrix{Float64}(undef, w.n_x, w.n_y)
    GC.@preserve w out check(c_weights_dense(w.handle, plain(out)), w.context.handle)
    return out
end

"""
    apply(weights, V)

`V Sᵀ`: column i is `Σ_j S_ij v_j`, for `V` of `c × n_y`.
"""
function apply(w::Weights, V::StridedMatrix{<:Element})
    out = Matrix{wider(V, V)}(undef, size(V, 1), w.n_x)
    GC.@preserve w V out check(c_weights_apply(w.handle, samples(V), samples(out)), w.context.handle)
    return out
end

"""
    apply_t(weights, U)

`U S`: column j is `Σ_i S_ij u_i`, for `U` of `c × n_x`.
"""
function apply_t(w::Weights, U::StridedMatrix{<:Element})
    out = Matrix{wider(U, U)}(undef, size(U, 1), w.n_y)
    GC.@preserve w U out check(c_weights_apply_t(w.handle, samples(U), samples(out)), w.context.handle)
    return out
end

"""
    cross_covariance(weights, X, Y)

The contrastive cross-covariance `X S Yᵀ`, `d1 × d2`.
"""
function cross_covariance(w::Weights, X::StridedMatrix{<:Element}, Y::StridedMatrix{<:Element})
    out = Matrix{Float64}(undef, size(X, 1), size(Y, 1))
    GC.@preserve w X Y out check(c_weights_cross(w.handle, samples(X), samples(Y), plain(out)), w.context.handle)
    return out
end

"""
    contrastive_grad(Zx, Zy; loss = Loss(), positives = nothing, context) -> (value, dZx, dZy)

The loss of embeddings with unit columns and its gradients: a loss layer for neural encoders.
"""
function contrastive_grad(Zx::StridedMatrix{<:Element}, Zy::StridedMatrix{<:Element}; loss::Loss = Loss(), positives = nothing, context::Context = default_context())
    p = Positives(positives, size(Zx, 2), size(Zy, 2))
    dZx, dZy = Matrix{wider(Zx, Zy)}(undef, size(Zx)), Matrix{wider(Zx, Zy)}(undef, size(Zy))
    out = Ref(0.0)
    GC.@preserve Zx Zy dZx dZy p loss context begin
        status = c_contrastive_grad(context.handle, loss.raw, samples(Zx), samples(Zy), p.raw, out, samples(dZx), samples(dZy))
        check(status, context.handle)
    end
    return out[], dZx, dZy
end
