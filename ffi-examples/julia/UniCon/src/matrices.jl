const Element = Union{Float32,Float64,Float16}
dtype(::Type{Float32}) = Int32(1)
dtype(::Type{Float64}) = Int32(2)
dtype(::Type{Float16}) = Int32(3)
wider(a, b) = Float64 in (eltype(a), eltype(b)) ? Float64 : Float32

"A d × n array (samples are columns) as the library's n × d matrix."
function samples(A::StridedMatrix{<:Element})
    return Matrix_t(pointer(A), size(A, 2), size(A, 1), stride(A, 2), stride(A, 1), dtype(eltype(A)), 1, 0, 0)
end

"An array as it is written: element (i, j) is A[i, j]."
function plain(A::StridedMatrix{<:Element})
    return Matrix_t(pointer(A), size(A, 1), size(A, 2), stride(A, 1), stride(A, 2), dtype(eltype(A)), 1, 0, 0)
end
