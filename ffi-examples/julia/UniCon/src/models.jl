"A pair of encoders, made by [`fit`](@ref), [`load`](@ref) or [`linear_model`](@ref). Immutable."
mutable struct Model
    handle::Ptr{Cvoid}
    d1::Int
    d2::Int
    r::Int
    function Model(handle::Ptr{Cvoid})
        model = finalizer(m -> c_model_destroy(m.handle), new(handle, 0, 0, 0))
        d = ModelDescription_t()
        check(c_model_describe(handle, d))
        model.d1, model.d2, model.r = d.d1, d.d2, d.r
        return model
    end
end
Base.show(io::IO, m::Model) = print(io, "UniCon.Model(", m.d1, " and ", m.d2, " -> ", m.r, ")")

side_of(side::Symbol) = choose("side", side, (x = 0, y = 1))

"""
    encode(model, side, X; context)

Unit columns, `r × n`, of features `d × n`; `side` is `:x` or `:y`.
"""
function encode(model::Model, side::Symbol, X::StridedMatrix{<:Element}; context::Context = default_context())
    out = Matrix{wider(X, X)}(undef, model.r, size(X, 2))
    GC.@preserve model context X out begin
        check(c_model_encode(context.handle, model.handle, side_of(side), samples(X), samples(out)), context.handle)
    end
    return out
end

"""
    similarity(model, X, Y; context)

Cosines of all pairs, `n_x × n_y`.
"""
function similarity(model::Model, X::StridedMatrix{<:Element}, Y::StridedMatrix{<:Element}; context::Context = default_context())
    out = Matrix{wider(X, Y)}(undef, size(X, 2), size(Y, 2))
    GC.@preserve model context X Y out begin
        check(c_model_similarity(context.handle, model.handle, samples(X), samples(Y), plain(out)), context.handle)
    end
    return out
end

"""
    encoder(model, side; context)

The encoder matrix `F` of a linear model, `r × d`: embeddings are the normalised columns of `F * X`.
"""
function encoder(model::Model, side::Symbol; context::Context = default_context())
    out = Matrix{Float64}(undef, model.r, side === :x ? model.d1 : model.d2)
    GC.@preserve model context out begin
        check(c_model_encoder(context.handle, model.handle, side_of(side), plain(out)), context.handle)
    end
    return out
end

"""
    linear_model(F1, F2; context)

A model from encoder matrices `r × d1` and `r × d2`.
"""
function linear_model(F1::StridedMatrix{<:Element}, F2::StridedMatrix{<:Element}; context::Context = default_context())
    handle = Ref{Ptr{Cvoid}}(C_NULL)
    GC.@preserve context F1 F2 begin
        check(c_model_create_linear(context.handle, plain(F1), plain(F2), handle), context.handle)
    end
    return Model(handle[])
end

"""
    save(model, path; context)

Writes a model as a safetensors file.
"""
save(model::Model, path::AbstractString; context::Context = default_context()) =
    GC.@preserve model context check(c_model_save(context.handle, model.handle, path), context.handle)

"""
    load(path; context)

Reads a model.
"""
function load(path::AbstractString; context::Context = default_context())
    handle = Ref{Ptr{Cvoid}}(C_NULL)
    GC.@preserve context check(c_model_load(context.handle, path, handle), context.handle)
    return Model(handle[])
end
