"""
A pair of encoders, made by [`fit`](@ref), [`load`](@ref), [`from_bytes`](@ref) or [`linear_model`](@ref). Immutable: copies are the model
itself, and any number of threads may use it. `serialize` writes its bytes.
"""
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
Base.copy(m::Model) = m
Base.deepcopy_internal(m::Model, ::IdDict) = m

side_of(side::Symbol) = choose("side", side, (x = 0, y = 1))

"""
    encode(model, side, X; context = nothing)

Unit columns, `r × n`, of features `d × n`; `side` is `:x` or `:y`. `n` may be 0. Of a [`compress`](@ref)ed model their lengths are others.
"""
function encode(model::Model, side::Symbol, X; context::Union{Nothing,Context} = nothing)
    X = readable("X", X)
    out = Matrix{wider(X, X)}(undef, model.r, size(X, 2))
    on(context) do c
        GC.@preserve model X out check(c_model_encode(c.handle, model.handle, side_of(side), samples(X), samples(out)), c.handle)
    end
    return out
end

"""
    similarity(model, X, Y; context = nothing)

Cosines of all pairs, `n_x × n_y`.
"""
function similarity(model::Model, X, Y; context::Union{Nothing,Context} = nothing)
    X, Y = readable("X", X), readable("Y", Y)
    out = Matrix{wider(X, Y)}(undef, size(X, 2), size(Y, 2))
    on(context) do c
        GC.@preserve model X Y out check(c_model_similarity(c.handle, model.handle, samples(X), samples(Y), plain(out)), c.handle)
    end
    return out
end

"""
    compress(model, X, Y, r; context = nothing)

The model with embeddings of `r` columns whose products, over all pairs of the given `d1 × n_x` and `d2 × n_y` samples, are the nearest to
those of `model` that so few can have, and the relative error of these products. Embeddings are not of unit length then: compare them by
products.
"""
function compress(model::Model, X, Y, r::Integer; context::Union{Nothing,Context} = nothing)
    X, Y = readable("X", X), readable("Y", Y)
    error, handle = Ref{Float64}(0), Ref{Ptr{Cvoid}}(C_NULL)
    on(context) do c
        GC.@preserve model X Y check(c_model_compress(c.handle, model.handle, samples(X), samples(Y), r, error, handle), c.handle)
    end
    return Model(handle[]), error[]
end

"""
    encoder(model, side; context = nothing)

The encoder matrix `F` of a linear model, `r × d`: embeddings are the normalised columns of `F * X .+ b`, with [`bias`](@ref) `b`.
"""
function encoder(model::Model, side::Symbol; context::Union{Nothing,Context} = nothing)
    out = Matrix{Float64}(undef, model.r, side === :x ? model.d1 : model.d2)
    on(context) do c
        GC.@preserve model out check(c_model_encoder(c.handle, model.handle, side_of(side), plain(out)), c.handle)
    end
    return out
end

"""
    bias(model, side; context = nothing)

The bias `b` of a linear model, which takes the mean out of features: `r` values, 0 where nothing is taken out.
"""
function bias(model::Model, side::Symbol; context::Union{Nothing,Context} = nothing)
    out = Matrix{Float64}(undef, model.r, 1)
    on(context) do c
        GC.@preserve model out check(c_model_bias(c.handle, model.handle, side_of(side), plain(out)), c.handle)
    end
    return vec(out)
end

"""
    linear_model(F1, F2; context = nothing)

A model from encoder matrices `r × d1` and `r × d2`.
"""
function linear_model(F1, F2; context::Union{Nothing,Context} = nothing)
    F1, F2 = readable("F1", F1), readable("F2", F2)
    handle = Ref{Ptr{Cvoid}}(C_NULL)
    on(context) do c
        GC.@preserve F1 F2 check(c_model_create_linear(c.handle, plain(F1), plain(F2), handle), c.handle)
    end
    return Model(handle[])
end

"""
    save(model, path; context = nothing)

Writes a model as a safetensors file.
"""
function save(model::Model, path::AbstractString; context::Union{Nothing,Context} = nothing)
    on(c -> GC.@preserve(model, check(c_model_save(c.handle, model.handle, path), c.handle)), context)
    return nothing
end

"""
    load(path; context = nothing)

Reads a model.
"""
function load(path::AbstractString; context::Union{Nothing,Context} = nothing)
    handle = Ref{Ptr{Cvoid}}(C_NULL)
    on(c -> check(c_model_load(c.handle, path, handle), c.handle), context)
    return Model(handle[])
end

"""
    to_bytes(model)

The bytes that [`save`](@ref) writes; equal models give equal bytes.
"""
function to_bytes(model::Model)
    size = Ref{Int64}(0)
    GC.@preserve model begin
        check(c_model_to_bytes(model.handle, Ptr{UInt8}(C_NULL), 0, size))
        bytes = Vector{UInt8}(undef, size[])
        GC.@preserve bytes check(c_model_to_bytes(model.handle, pointer(bytes), length(bytes), size))
    end
    return bytes
end

"""
    from_bytes(bytes)

A model from the bytes of [`to_bytes`](@ref) or of a model file. They are checked whole.
"""
function from_bytes(bytes::AbstractVector{UInt8})
    bytes, handle = Vector{UInt8}(bytes), Ref{Ptr{Cvoid}}(C_NULL)
    GC.@preserve bytes check(c_model_from_bytes(pointer(bytes), length(bytes), handle))
    return Model(handle[])
end

function Serialization.serialize(s::Serialization.AbstractSerializer, model::Model)
    Serialization.serialize_type(s, Model)
    return Serialization.serialize(s, to_bytes(model))
end
Serialization.deserialize(s::Serialization.AbstractSerializer, ::Type{Model}) = from_bytes(Serialization.deserialize(s))
