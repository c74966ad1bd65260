"""
    evaluate(Zx, Zy, ks = [1, 5, 10]; truth, ties, exclude_self, resamples, level, seed, context)

Recall@k, mean reciprocal, median and mean rank both ways (`x2y`, `y2x`), with bootstrap intervals paired by query.

`ties` says what items as similar as the best match do to its rank: `:expected` (any order), `:lower_index`, `:optimistic` or
`:pessimistic`; `tied` counts the queries concerned. With `exclude_self` column `i` never finds column `i`: a set against
itself. `resamples` (by default 1000) of 0 leaves the intervals out, which are then `nothing`; their `level` is 0.95 by default.
"""
function evaluate(Zx, Zy, ks = [1, 5, 10]; truth = nothing, ties::Symbol = :expected, exclude_self::Bool = false,
                  resamples::Union{Nothing,Integer} = nothing, level::Union{Nothing,Real} = nothing, seed::Integer = 0,
                  context::Union{Nothing,Context} = nothing)
    Zx, Zy = readable("Zx", Zx), readable("Zy", Zy)
    pairs = Pairs(Zx, Zy, Positives(truth, size(Zx, 2), size(Zy, 2); name = "truth"))
    k = whole("ks", ks)
    options = EvaluationOptions_t()
    check(c_evaluation_options_init(options))
    options.ks, options.n_ks = pointer(k), length(k)
    options.ties = choose("ties", ties, TIES)
    options.exclude_self, options.seed = exclude_self, seed
    resamples === nothing || (options.resamples = resamples)
    level === nothing || (options.level = level)
    report = Ref{Ptr{Cvoid}}(C_NULL)
    try
        on(context) do c
            GC.@preserve pairs k check(c_evaluate(c.handle, options, pairs.raw, report), c.handle)
        end
        return (matching_accuracy = real_of(report[], :matching_accuracy), x2y = way_of(report[], :x2y), y2x = way_of(report[], :y2x))
    finally
        c_report_destroy(report[])
    end
end

# How the samples of one side find those of the other.
function way_of(report, way)
    key(name) = Symbol(name, way)
    ends(value, name) = map(bound -> value(report, Symbol(name, way, bound)), (:_low, :_high))
    low, high = ends(series_of, :recall_)
    return (recall = series_of(report, key(:recall_)), intervals = low === nothing ? nothing : collect(zip(low, high)),
            mrr = real_of(report, key(:mrr_)), mrr_interval = low === nothing ? nothing : ends(real_of, :mrr_),
            median_rank = real_of(report, key(:median_rank_)), mean_rank = real_of(report, key(:mean_rank_)),
            tied = integer_of(report, key(:tied_)))
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
