"Numbers as Int64: integers, or floats that are whole. Anything else is an error that names them."
function whole(name, values)
    values isa AbstractVector || values isa Tuple || throw(ArgumentError("$name: expected a vector of integers, got $(typeof(values))"))
    eltype(values) === Bool && throw(ArgumentError("$name: expected integers, got Bool"))
    try
        return Vector{Int64}(collect(values))
    catch e
        e isa InterruptException && rethrow()
        throw(ArgumentError("$name: expected integers, got $(eltype(values)) with others"))
    end
end

# Positives as the library takes them, with the arrays that they borrow.
struct Positives
    raw::Positives_t
    arrays::Tuple{Vector{Int64},Vector{Int64}}
end

"""
    Positives(positives, n_x, n_y)

Which samples match: `nothing` (x_i matches y_i), a tuple of `n_x` and `n_y` group ids, a matrix `n_y × n_x` (column i is about x_i) that is
sparse (what is stored and not 0) or of `Bool`, or a vector of pairs `(i, j)`, counted from 1.
"""
function Positives(positives, n_x::Int, n_y::Int; name = "positives")
    raw = Positives_t()
    check(c_positives_init(raw))
    positives === nothing && return Positives(raw, (Int64[], Int64[]))
    if positives isa Tuple
        length(positives) == 2 || throw(ArgumentError("$name: expected ids of both sides, got $(length(positives)) items"))
        arrays = (whole("$name[1]", positives[1]), whole("$name[2]", positives[2]))
        lengths = map(length, arrays)
        lengths == (n_x, n_y) || throw(DimensionMismatch("$name: expected $((n_x, n_y)) group ids, got $lengths"))
        raw.kind = 1
        raw.x_groups, raw.y_groups = pointer(arrays[1]), pointer(arrays[2])
        return Positives(raw, arrays)
    end
    arrays = matches(name, positives, n_x, n_y)
    raw.kind, raw.nnz = 2, length(arrays[2])
    raw.indptr, raw.indices = pointer(arrays[1]), pointer(arrays[2])
    return Positives(raw, arrays)
end

# Offsets and columns, from 0.
function matches(name, m::AbstractMatrix, n_x, n_y)
    size(m) == (n_y, n_x) ||
        throw(DimensionMismatch("$name: expected a $n_y × $n_x matrix (columns are samples of X), got $(size(m))"))
    m isa Turned && hasproperty(parent(m), :colptr) && (m = copy(m))
    if hasproperty(m, :colptr)
        all(isfinite, m.nzval) || throw(ArgumentError("$name: expected finite stored values"))
        kept = map(!iszero, m.nzval)
        ends = cumsum([0; kept])
        return Vector{Int64}(ends[m.colptr]), Vector{Int64}(m.rowval[kept]) .- 1
    end
    eltype(m) === Bool || throw(ArgumentError("$name: expected a sparse matrix or one of Bool, got $(eltype(m)); compare it with 0"))
    counts = vec(sum(m; dims = 1))
    return [0; cumsum(counts)], [Int64(i[1] - 1) for i in findall(m)]
end
function matches(name, pairs::AbstractVector, n_x, n_y)
    all(p -> (p isa Tuple || p isa Pair) && length(p) == 2 && all(v -> v isa Integer && !(v isa Bool), (p[1], p[2])), pairs) ||
        throw(ArgumentError("$name: expected pairs of integers, a tuple of ids or a matrix, got a vector of $(eltype(pairs))"))
    all(p -> 1 <= p[1] <= n_x && 1 <= p[2] <= n_y, pairs) ||
        throw(ArgumentError("$name: expected pairs from (1, 1) to ($n_x, $n_y), got others"))
    sorted = sort!(unique!([(Int64(p[1]), Int64(p[2])) for p in pairs]))
    counts = zeros(Int64, n_x)
    foreach(p -> counts[p[1]] += 1, sorted)
    return [0; cumsum(counts)], [p[2] - 1 for p in sorted]
end
matches(name, other, n_x, n_y) =
    throw(ArgumentError("$name: expected a tuple of ids, a matrix or a vector of pairs, got $(typeof(other))"))

# Two matrices that can be read and which of their samples match, as the library takes them, with what they borrow.
struct Pairs
    raw::Pairs_t
    kept::Tuple
end

function Pairs(X, Y, p::Positives)
    x, y, raw = Ref(samples(X)), Ref(samples(Y)), Pairs_t()
    raw.struct_size = sizeof(Pairs_t)
    raw.x, raw.y = Base.unsafe_convert(Ptr{Matrix_t}, x), Base.unsafe_convert(Ptr{Matrix_t}, y)
    raw.positives = pointer_from_objref(p.raw)
    return Pairs(raw, (X, Y, p, x, y))
end
