const TIES = (expected = 0, lower_index = 1, optimistic = 2, pessimistic = 3)

"""
    search(queries, items, k; context = nothing) -> (scores, indices)

The `k` nearest items of every query, both `k × n_q`; indices count from 1 and are 0 where there are fewer than `k` items. There
may be no queries.
"""
function search(queries, items, k::Integer; context::Union{Nothing,Context} = nothing)
    k >= 1 || throw(ArgumentError("k: expected at least 1, got $k"))
    queries, items = readable("queries", queries), readable("items", items)
    scores = Matrix{wider(queries, items)}(undef, k, size(queries, 2))
    indices = Matrix{Int64}(undef, k, size(queries, 2))
    on(context) do c
        GC.@preserve queries items scores indices begin
            check(c_search(c.handle, samples(queries), samples(items), k, samples(scores), pointer(indices)), c.handle)
        end
    end
    return scores, indices .+ 1
end

"""
    recall(Zx, Zy, ks = [1, 5, 10]; truth = nothing, ties = :expected, context = nothing) -> (x2y, y2x)

Recall@k in both directions. `truth` as the `positives` of [`fit`](@ref); `ties` as for [`evaluate`](@ref), which has ranks and intervals.
"""
function recall(Zx, Zy, ks = [1, 5, 10]; truth = nothing, ties::Symbol = :expected, context::Union{Nothing,Context} = nothing)
    Zx, Zy = readable("Zx", Zx), readable("Zy", Zy)
    pairs = Pairs(Zx, Zy, Positives(truth, size(Zx, 2), size(Zy, 2); name = "truth"))
    k = whole("ks", ks)
    out = zeros(length(k), 2)
    on(context) do c
        GC.@preserve pairs k out begin
            check(c_recall(c.handle, pairs.raw, choose("ties", ties, TIES), pointer(k), length(k), pointer(out)), c.handle)
        end
    end
    return (x2y = out[:, 1], y2x = out[:, 2])
end

"""
    gram(kernel, A, B; context = nothing)

The Gram matrix `k(aᵢ, bⱼ)` of columns, `n × m`.
"""
function gram(kernel::Kernel, A, B; context::Union{Nothing,Context} = nothing)
    A, B = readable("A", A), readable("B", B)
    out = Matrix{wider(A, B)}(undef, size(A, 2), size(B, 2))
    on(context) do c
        GC.@preserve kernel A B out check(c_gram(c.handle, kernel.raw, samples(A), samples(B), plain(out)), c.handle)
    end
    return out
end
