"""
    search(queries, items, k; context) -> (scores, indices)

The `k` nearest items of every query, both `k × n_q`; indices count from 1 and are 0 where there are fewer than `k` items.
"""
function search(queries::StridedMatrix{<:Element}, items::StridedMatrix{<:Element}, k::Integer; context::Context = default_context())
    k >= 1 || throw(ArgumentError("k: expected at least 1, got $k"))
    scores = Matrix{wider(queries, items)}(undef, k, size(queries, 2))
    indices = Matrix{Int64}(undef, k, size(queries, 2))
    GC.@preserve queries items scores indices context begin
        status = c_search(context.handle, samples(queries), samples(items), k, samples(scores), pointer(indices))
        check(status, context.handle)
    end
    return scores, indices .+ 1
end

"""
    recall(Zx, Zy, ks = [1, 5, 10]; truth = nothing, context) -> (x2y, y2x)

Recall@k in both directions.
"""
function recall(Zx::StridedMatrix{<:Element}, Zy::StridedMatrix{<:Element}, ks = [1, 5, 10]; truth = nothing, context::Context = default_context())
    p = Positives(truth, size(Zx, 2), size(Zy, 2))
    k = Vector{Int64}(ks)
    out = zeros(length(k), 2)
    GC.@preserve Zx Zy p k out context begin
        status = c_recall(context.handle, samples(Zx), samples(Zy), p.raw, pointer(k), length(k), pointer(out))
        check(status, context.handle)
    end
    return (x2y = out[:, 1], y2x = out[:, 2])
end

"""
    gram(kernel, A, B; context)

The Gram matrix `k(aᵢ, bⱼ)` of columns, `n × m`.
"""
function gram(kernel::Kernel, A::StridedMatrix{<:Element}, B::StridedMatrix{<:Element}; context::Context = default_context())
    out = Matrix{wider(A, B)}(undef, size(A, 2), size(B, 2))
    GC.@preserve kernel A B out context begin
        check(c_gram(context.handle, kernel.raw, samples(A), samples(B), plain(out)), context.handle)
    end
    return out
end
