"""
    evaluate(Zx, Zy, ks = [1, 5, 10]; truth, ties, exclude_self, resamples, level, seed, context)

Recall@k, mean reciprocal, median and mean rank both ways (`x2y`, `y2x`), with bootstrap intervals paired by query.

`ties` says what items as similar as the best match do to its rank: `:expected` (any order), `:lower_index`, `:optimistic` or
`:pessimistic`; `tied` counts the queries concerned. With `exclude_self` column `i` never finds column `i`: a set against
itself. `resamples` (by default 1000) of 0 leaves the intervals out; their `level` is 0.95 by default.
"""
function evaluate(Zx, Zy, ks = [1, 5, 10]; truth = nothing, ties::Symbol = :expected, exclude_self::Bool = false,
                  resamples::Union{Nothing,Integer} = nothing, level::Union{Nothing,Real} = nothing, seed::Integer = 0,
                  context::Union{Nothing,Context} = nothing)
    Zx, Zy = readable("Zx", Zx), readable("Zy", Zy)
    p = Positives(truth, size(Zx, 2), size(Zy, 2); name = "truth")
    k = whole("ks", ks)
    e = Evaluation_t()
    check(c_evaluation_init(e))
    e.ties = choose("ties", ties, (expected = 0, lower_index = 1, optimistic = 2, pessimistic = 3))
    e.exclude_self, e.seed = exclude_self, seed
    resamples === nothing || (e.resamples = resamples)
    level === nothing || (e.level = level)
    shares, ends = zeros(length(k), 2), zeros(2, length(k), 2)
    on(context) do c
        GC.@preserve Zx Zy p k shares ends begin
            check(c_evaluate(c.handle, samples(Zx), samples(Zy), p.raw, pointer(k), length(k), e, pointer(shares), pointer(ends)), c.handle)
        end
    end
    of(way) = [(ends[1, i, way], ends[2, i, way]) for i in eachindex(k)]
    x2y = (recall = shares[:, 1], intervals = of(1), mrr = e.mrr_x2y, mrr_interval = (e.mrr_x2y_low, e.mrr_x2y_high),
           median_rank = e.median_rank_x2y, mean_rank = e.mean_rank_x2y, tied = e.tied_x2y)
    y2x = (recall = shares[:, 2], intervals = of(2), mrr = e.mrr_y2x, mrr_interval = (e.mrr_y2x_low, e.mrr_y2x_high),
           median_rank = e.median_rank_y2x, mean_rank = e.mean_rank_y2x, tied = e.tied_y2x)
    return (matching_accuracy = e.matching_accuracy, x2y = x2y, y2x = y2x)
end

"""
    Items(Z; context = nothing)

Items that stay on a context's device: checked and copied once, searched many times. Columns are items, of unit length for
cosines. Copies are the items themselves.
"""
mutable struct Items
    handle::Ptr{Cvoid}
    # That of a GPU, whose memory they are in; on the CPU any may read them.
    context::Union{Nothing,Context}
    r::Int
    n::Int
    wide::Bool
    function Items(Z; context::Union{Nothing,Context} = nothing)
        Z = readable("Z", Z)
        return on(context) do c
            handle = Ref{Ptr{Cvoid}}(C_NULL)
            GC.@preserve Z check(c_items_create(c.handle, samples(Z), handle), c.handle)
            finalizer(i -> c_items_destroy(i.handle), new(handle[], context, size(Z, 1), size(Z, 2), eltype(Z) === Float64))
        end
    end
end
Base.length(items::Items) = items.n
Base.show(io::IO, items::Items) = print(io, "UniCon.Items(", items.r, " x ", items.n, ")")
Base.copy(items::Items) = items
Base.deepcopy_internal(items::Items, ::IdDict) = items

"""
    search(queries, items::Items, k; first = nothing, context = items.context) -> (scores, indices)

As the search of a matrix, in items that stay on a device. With `first`, query `i` is item `first + i - 1`, which is left out
of its own results. Any number of threads may search.
"""
function search(queries, items::Items, k::Integer; first::Union{Nothing,Integer} = nothing,
                context::Union{Nothing,Context} = items.context)
    k >= 1 || throw(ArgumentError("k: expected at least 1, got $k"))
    isnothing(first) || first >= 1 || throw(ArgumentError("first: expected the number of an item, got $first"))
    queries = readable("queries", queries)
    scores = Matrix{items.wide ? Float64 : Float32}(undef, k, size(queries, 2))
    indices = Matrix{Int64}(undef, k, size(queries, 2))
    own = isnothing(first) ? Int64(-1) : Int64(first) - 1
    on(context) do c
        GC.@preserve queries items scores indices begin
            check(c_items_search(c.handle, items.handle, samples(queries), k, own, samples(scores), pointer(indices)), c.handle)
        end
    end
    return scores, indices .+ 1
end
