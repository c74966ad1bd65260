using LinearAlgebra, Random, SparseArrays, Test, UniCon

"Two views of the same latent points, samples are columns."
function pairs(n; d1 = 20, d2 = 15, r = 5, noise = 0.1)
    z = randn(r, n)
    return Float32.(randn(d1, r) * z + noise * randn(d1, n)), Float32.(randn(d2, r) * z + noise * randn(d2, n))
end

"The clip loss with nu = 1 by its definition, and S = -dL/ds, in float64."
function clip(s, tau)
    n = size(s, 1)
    P = exp.(s ./ tau)
    rows, cols = P ./ sum(P; dims = 2), P ./ sum(P; dims = 1)
    loss = -tau * (sum(log.(diag(rows))) + sum(log.(diag(cols)))) / 2n
    return loss, (Matrix(I, n, n) - (rows + cols) / 2) / n
end

Random.seed!(1)

@testset "UniCon" begin
    @testset "linear fit" begin
        X, Y = pairs(300)
        model, info = fit(LinearUniCon(5; whiten = 0.01), X, Y)
        @test (model.d1, model.d2, model.r) == (20, 15, 5)
        @test info.outcome in (:completed, :converged)
        @test issorted(info.singular_values; rev = true)
        Zx, Zy = encode(model, :x, X), encode(model, :y, Y)
        @test size(Zx) == (5, 300)
        @test all(abs.(sum(abs2, Zx; dims = 1) .- 1) .< 1e-5)
        @test Zx' * Zy ≈ similarity(model, X, Y) atol = 1e-5
        @test first(recall(Zx, Zy, [1]).x2y) > 0.9
        scores, indices = search(Zx, Zy, 3)
        @test size(indices) == (3, 300)
        @test indices[1, :] == [argmax(col) for col in eachcol(Zy' * Zx)]
        found = evaluate(Zx, Zy, [1, 5])
        @test found.x2y.recall ≈ recall(Zx, Zy, [1, 5]).x2y
        @test all(low <= r <= high for ((low, high), r) in zip(found.x2y.intervals, found.x2y.recall))
        same = repeat(Zx[:, 1:1], 1, 300)
        @test evaluate(same, Zy, [3]; resamples = 0).y2x.recall ≈ [0.01]
        @test evaluate(same, Zy, [3]; ties = :optimistic, resamples = 0).y2x.recall == [1.0]
        @test_throws ArgumentError evaluate(Zx, Zy; ties = :mean)
        @test_throws UniConError evaluate(Zx, Zx; exclude_self = true)
        items = Items(Zy)
        @test search(Zx, items, 3) == (scores, indices)
        @test search(Zy[:, 7:7], items, 1)[2] == fill(7, 1, 1)
        @test search(Zy[:, 7:7], items, 1; first = 7)[2] != fill(7, 1, 1)
        @test deepcopy(items) === items
        path = tempname()
        save(model, path)
        @test encode(load(path), :x, X) == Zx
        F = encoder(model, :x)
        E = F * X
        @test E ./ sqrt.(sum(abs2, E; dims = 1)) ≈ Zx atol = 1e-4
    end

    @testset "weights and gradients" begin
        unit(A) = A ./ sqrt.(sum(abs2, A; dims = 1))
        Zx, Zy = unit(randn(4, 30)), unit(randn(4, 30))
        loss, S = clip(Zx' * Zy, 0.1)
        w = Weights(Zx, Zy; loss = Loss(:clip; tau = 0.1))
        @test value(w) ≈ loss rtol = 1e-10
        @test dense(w) ≈ S rtol = 1e-10
        @test apply(w, Zy) ≈ Zy * S' rtol = 1e-10
        @test apply_transpose(w, Zx) ≈ Zx * S rtol = 1e-10
        @test cross_covariance(w, Zx, Zy) ≈ Zx * S * Zy' rtol = 1e-10
        v, dZx, dZy = contrastive_grad(Zx, Zy; loss = Loss(:clip; tau = 0.1))
        @test v ≈ loss rtol = 1e-10
        given = Weights(Zx' * Zy; loss = Loss(:clip; tau = 0.1))
        @test value(given) ≈ loss rtol = 1e-10
        @test dense(given) ≈ S rtol = 1e-10
        @test dZx ≈ -Zy * S' rtol = 1e-10
        @test dZy ≈ -Zx * S rtol = 1e-10
    end

    @testset "kernels, positives, errors" begin
        X, Y = pairs(60)
        model, _ = fit(KernelUniCon(3, Kernel(:rbf; gamma = 0.01)), X, Y)
        @test size(encode(model, :x, X)) == (3, 60)
        K = gram(Kernel(:linear), X, X)
        @test K ≈ X' * X rtol = 1e-4
        groups = repeat(1:20, 3)
        model, _ = fit(LinearUniCon(3), X, Y; positives = (groups, groups))
        @test model.r == 3
        @test_throws UniConError fit(LinearUniCon(16), X, Y)
        @test_throws UniConError fit(LinearUniCon(3), X, Y[:, 1:59])
        @test_throws UniConError fit(LinearUniCon(3), X, Y; progress = _ -> false)
        @test_throws ArgumentError Loss(:nonsense)
        @test_throws ArgumentError fit(LinearUniCon(3; threads = 2), X, Y)
        @test_throws ArgumentError fit(LinearUniCon(3; whiten = :auto), X, Y)
        @test_throws ArgumentError fit(LinearUniCon(3; svd = :none), X, Y)
        @test_throws DimensionMismatch fit(LinearUniCon(3), X, Y; positives = (groups, groups[1:59]))
        @test_throws ErrorException fit(LinearUniCon(3), X, Y; progress = _ -> error("from progress"))
        text = try
            fit(LinearUniCon(3), X, fill(NaN32, 15, 60))
        catch e
            sprint(showerror, e)
        end
        @test occursin("y", text) && occursin("row 0", text)
    end

    @testset "the same in other words" begin
        X, Y = map(A -> Float64.(A), pairs(60))
        groups = repeat(1:20, 3)
        product(model) = encoder(model, :x)' * encoder(model, :y)
        grouped, _ = fit(LinearUniCon(3), X, Y; positives = (groups, groups))
        sparse_too, _ = fit(LinearUniCon(3), X, Y; positives = sparse(groups .== groups'))
        @test product(grouped) ≈ product(sparse_too) rtol = 1e-10
        all_samples, _ = fit(KernelUniCon(3, Kernel(:angular); landmarks = collect(1:60)), X, Y)
        @test size(encode(all_samples, :y, Y)) == (3, 60)
        # A view is read where it lies.
        half, _ = fit(LinearUniCon(3), view(X, :, 1:2:60), view(Y, :, 1:2:60))
        copied, _ = fit(LinearUniCon(3), X[:, 1:2:60], Y[:, 1:2:60])
        @test encoder(half, :x) == encoder(copied, :x)
        shares = Float64[]
        fit(LinearUniCon(3; n_iters = 3), X, Y; validation = (X, Y), warm_start = grouped, progress = p -> push!(shares, p.done / p.total))
        @test !isempty(shares) && all(0 .<= shares .<= 1)
    end

    @testset "what nobody holds any more is let go" begin
        X, Y = pairs(40)
        Z = encode(fit(LinearUniCon(3), X, Y)[1], :x, X)
        for _ in 1:30
            context = Context(; n_threads = 1)
            model, _ = fit(LinearUniCon(3), X, Y; context = context)
            Weights(encode(model, :x, X), encode(model, :y, Y); context = context)
            GC.gc(false)
        end
        GC.gc()
        @test Z ≈ encode(fit(LinearUniCon(3), X, Y)[1], :x, X)
    end

    @testset "refinement, and the best" begin
        X, Y = pairs(300; noise = 0.5)
        _, plain = fit(LinearUniCon(5; n_iters = 1), X, Y)
        _, refined = fit(LinearUniCon(5; n_iters = 1, refine = Refine(max_steps = 5)), X, Y)
        @test refined.final_loss < plain.final_loss
        @test length(refined.trace) >= 2
        _, damped = fit(LinearUniCon(5; n_iters = 5, damping = Damping()), X, Y)
        @test issorted(damped.loss[2:end]; rev = true)
        model, info = fit(BestUniCon(5), X, Y)
        @test model.r == 5 && info.chosen.r == 5 && info.held_back == (30, 30)
        model, info = fit(BestUniCon(; tau = :auto, whiten = [0.1, 0.01]), X, Y)
        @test info.chosen.r == model.r && info.chosen.whiten in (0.1, 0.01)
    end

    @testset "partial fit" begin
        X, Y = pairs(120)
        for accumulate in (:moments, :solutions)
            partial = PartialFit(LinearUniCon(5), 20, 15; accumulate)
            for b in 1:3
                columns = 40(b-1)+1:40b
                @test isfinite(add!(partial, X[:, columns], Y[:, columns]))
            end
            @test encode(current(partial), :y, Y) ≈ encode(finish!(partial), :y, Y)
        end
    end
end
