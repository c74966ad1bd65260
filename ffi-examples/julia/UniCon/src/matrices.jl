const Element = Union{Float32,Float64,Float16}
# Small integers are exact in Float32, the others (to 2^53) in Float64.
const Narrow = Union{Bool,Int8,UInt8,Int16,UInt16}
dtype(::Type{Float32}) = Int32(1)
dtype(::Type{Float64}) = Int32(2)
dtype(::Type{Float16}) = Int32(3)
wider(a, b) = Float64 in (eltype(a), eltype(b)) ? Float64 : Float32

# Address and strides of what lies in memory.
const Turned{T,P} = Union{Adjoint{T,P},Transpose{T,P}}
layout(A::StridedMatrix{<:Element}) = pointer(A), stride(A, 1), stride(A, 2)
layout(A::PermutedDimsArray{T,2,(2, 1),(2, 1),<:StridedMatrix{T}}) where {T<:Element} = turned(layout(parent(A)))
layout(A::Turned{T,<:StridedMatrix{T}}) where {T<:Element} = turned(layout(parent(A)))
layout(A::Turned{T,<:StridedVector{T}}) where {T<:Element} = pointer(parent(A)), 1, stride(parent(A), 1)
layout(A) = nothing
turned((address, first, second)) = address, second, first

"""
    readable(name, A)

`A` itself where the library can read it (dense arrays, views with contiguous rows or columns, their adjoints and transposes), else a copy:
other views, ranges, sparse and structured matrices, integers.
"""
function readable(name, A::AbstractMatrix{T}) where {T<:Element}
    l = layout(A)
    l === nothing && return Matrix{T}(A)
    (m, n), (_, a, b) = size(A), l
    contiguous = (a == 1 || m == 1) && (b >= m || n == 1) || (b == 1 || n == 1) && (a >= n || m == 1)
    return contiguous ? A : Matrix{T}(A)
end
readable(name, A::AbstractMatrix{<:Narrow}) = Matrix{Float32}(A)
function readable(name, A::AbstractMatrix{<:Integer})
    all(v -> -2^53 <= v <= 2^53, A) || throw(ArgumentError("$name: expected integers to 2^53, which Float64 holds, got larger ones"))
    return Matrix{Float64}(A)
end
readable(name, A::AbstractMatrix) =
    throw(ArgumentError("$name: expected Float16, Float32, Float64 or integers, got $(eltype(A))"))
readable(name, A::AbstractVector) =
    throw(ArgumentError("$name: expected a matrix (samples are columns), got a vector of $(length(A)); reshape(x, :, 1) is one sample"))
readable(name, A) = throw(ArgumentError("$name: expected a matrix (samples are columns), got $(typeof(A))"))

"A d × n array (samples are columns) as the library's n × d matrix."
function samples(A)
    address, a, b = layout(A)
    return Matrix_t(address, size(A, 2), size(A, 1), b, a, dtype(eltype(A)), 1, 0, 0)
end

"An array as it is written: element (i, j) is A[i, j]."
function plain(A)
    address, a, b = layout(A)
    return Matrix_t(address, size(A, 1), size(A, 2), a, b, dtype(eltype(A)), 1, 0, 0)
end
