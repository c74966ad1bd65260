# What Julia's callers hand over: copies, turned and strided matrices, integers, threads, and pairs in every form.

using LinearAlgebra, Random, SparseArrays, Serialization, Test, UniCon

Random.seed!(3)
const z = randn(8, 200)
const X = Float32.(randn(16, 8) * z + 0.1 * randn(16, 200))
const Y = Float32.(randn(12, 8) * z + 0.1 * randn(12, 200))
unit(A) = A ./ sqrt.(sum(abs2, A; dims = 1))

struct Turned{P} <: AbstractMatrix{Float32}
    parent::P
end
Base.size(t::Turned) = reverse(size(t.parent))
Base.getindex(t::Turned, i::Int, j::Int) = t.parent[j, i]

"The clip loss of pairs (x, y) that match, by its definition."
function clip(s, match, tau)
    total = 0.0
    for (s, m) in ((s, match), (permutedims(s), permutedims(match)))
        for i in 1:size(s, 1)
            own = findall(m[i, :])
            isempty(own) && continue
            terms = [log(1 + sum(exp.((s[i, .!m[i, :]] .- s[i, k]) ./ tau))) for k in own]
            total += tau * sum(terms) / length(terms) / (2 * size(s, 1))
        end
    end
    return total
end

message(f) =
    try
        f()
        "nothing was thrown"
    catch e
        sprint(showerror, e)
    end

@testset "people" begin
    model, _ = fit(LinearUniCon(6; whiten = 0.01), X, Y)
    F = encoder(model, :x)
    want = unit(F * Float64.(X))

    @testset "copies" begin
        for make in (deepcopy, copy, m -> deepcopy([m])[1], m -> deepcopy(Dict(:a => (m, 1)))[:a][1])
            first = from_bytes(to_bytes(model))
            second = make(first)
            first = nothing
            GC.gc()
            third = make(second)
            second = nothing
            GC.gc()
            @test encode(third, :x, X) == encode(model, :x, X)
            finalize(third)
        end
        @test to_bytes(from_bytes(to_bytes(model))) == to_bytes(model)
        buffer = IOBuffer()
        serialize(buffer, (model, 3))
        seekstart(buffer)
        again, three = deserialize(buffer)
        @test three == 3 && encode(again, :y, Y) == encode(model, :y, Y)
        @test occursin("bad file", message(() -> from_bytes(UInt8[1, 2, 3])))
        @test_throws UniConError from_bytes(UInt8[])
        context = Context(; n_threads = 1)
        twin = deepcopy(context)
        finalize(Weights(want, want; context = twin))
        @test twin === context
        w = Weights(want, want)
        dense_before, copied = dense(w), deepcopy(w)
        w = nothing
        GC.gc()
        @test dense(copied) == dense_before
        @test occursin("cannot be copied", message(() -> deepcopy(PartialFit(LinearUniCon(2), 16, 12))))
        # Options that are copied keep what they point to.
        solver = deepcopy(LinearUniCon(3; refine = Refine(; stages = [5, 0], max_steps = 3), damping = nothing))
        GC.gc()
        @test fit(solver, X, Y)[1].r == 3
        loss = deepcopy(Loss(:sigmoid; tau = 0.3))
        @test loss.raw.tau == 0.3
        loss.raw.kind = 0
        @test value(Weights(want, want; loss = loss)) == value(Weights(want, want; loss = Loss(:clip; tau = 0.3)))
    end

    @testset "matrices" begin
        whole = rand(-100:100, 16, 30)
        of_whole = unit(F * whole)
        wide = Float32.(randn(32, 400))
        double = copy(X')
        for (A, by) in (
            (X, want), (Float64.(X), want), (double', want), (transpose(double), want), (PermutedDimsArray(double, (2, 1)), want),
            (view(X, :, :), want), (view(X, :, 5:9), want[:, 5:9]), (view(X, :, 1:2:200), want[:, 1:2:200]), (view(double, 3:9, :)', want[:, 3:9]),
            (view(X, :, 200:-1:1), want[:, end:-1:1]), (view(X, :, [3, 1, 7]), want[:, [3, 1, 7]]), (view(double, 1:2:200, :)', want[:, 1:2:200]),
            (view(wide, 1:2:32, 1:3), unit(F * wide[1:2:32, 1:3])), (Turned(double), want), (reshape(X, 16, 200), want), (reshape(X[:, 1], :, 1), want[:, 1:1]),
            (reshape(1:16, :, 1), unit(F * reshape(1:16, :, 1))), (sparse(X), want), (sparse(X')', want), (Diagonal(ones(16)), unit(F)),
            (Symmetric(Float32.(whole[:, 1:16])), unit(F * Symmetric(whole[:, 1:16]))), (whole, of_whole), (whole .> 0, unit(F * (whole .> 0))),
            (copy(whole')', of_whole), (permutedims(X[:, 1])', want[:, 1:1]), (X[:, 1:1], want[:, 1:1]), ([x for x in 1:16, _ in 1:1], unit(F * (1:16))),
        )
            Z = encode(model, :x, A)
            @test isapprox(Z, by; atol = 1e-5)
        end
        for T in (Int8, Int16, Int32, Int64, Int128, BigInt)
            @test encode(model, :x, T.(whole)) ≈ of_whole atol = 1e-5
        end
        for T in (UInt8, UInt16, UInt32, UInt64)
            @test encode(model, :x, T.(abs.(whole))) ≈ unit(F * abs.(whole)) atol = 1e-5
        end
        half = Float16.(X)
        @test encode(model, :x, half) ≈ unit(F * Float64.(half)) atol = 1e-5
        # No samples are no columns of results; nothing else may be empty.
        for none in (X[:, 1:0], Float64.(X)[:, 1:0], view(X, :, 5:4), double[1:0, :]', whole[:, 1:0], sparse(X)[:, 1:0])
            @test size(encode(model, :x, none)) == (6, 0) && size(similarity(model, none, Y)) == (0, 200)
        end
        @test map(size, search(want[:, 1:0], want, 3)) == map(size, search(want[:, 1:0], Items(want), 3)) == ((3, 0), (3, 0))
        @test size(gram(Kernel(:rbf), X[:, 1:0], X)) == (0, 200)
        @test occursin("at least 1", message(() -> fit(LinearUniCon(2), X[:, 1:0], Y[:, 1:0])))
        # Fewer columns, and what that loses.
        all_of, lost = compress(model, X, Y, 6)
        @test lost < 1e-6
        @test similarity(all_of, X, Y) ≈ similarity(model, X, Y) atol = 1e-4
        few, lost = compress(model, X, Y, 2)
        @test few.r == 2
        @test sqrt(sum(abs2, similarity(few, X, Y) - similarity(model, X, Y)) / sum(abs2, similarity(model, X, Y))) ≈ lost atol = 1e-4
        row = linear_model(ones(2, 1), ones(2, 1))
        @test encode(row, :x, [2.0, -4.0]') ≈ [1 -1; 1 -1] ./ sqrt(2)
        for (A, text) in (
            (X[:, 1], "got a vector of 16"), (1:16, "got a vector of 16"), (complex.(X), "got Complex"), (BigFloat.(X), "got BigFloat"),
            (string.(X), "got String"), (convert(Matrix{Union{Missing,Float32}}, X), "Missing"), (fill(2^53 + 1, 16, 2), "2^53"), (3.0, "got Float64"),
            (nothing, "got Nothing"), (X[1:15, :], "16"), (X[1:0, :], "at least 1"), (X[1:3, 1:0], "16"), (ones(16, 3, 1), "got Array"), (fill(NaN32, 16, 2), "row 0"),
        )
            @test occursin(text, message(() -> encode(model, :x, A)))
        end
    end

    @testset "positives" begin
        n_x, n_y = 30, 20
        zx, zy = unit(randn(5, n_x)), unit(randn(5, n_y))
        s = zx' * zy
        match = rand(n_x, n_y) .< 0.1
        match[3, :] .= false
        match[1, 1] = true
        loss_of(p) = value(Weights(zx, zy; loss = Loss(:clip; tau = 0.2), positives = p))
        byx = permutedims(match)
        pairs = [(i[1], i[2]) for i in findall(match)]
        zeroed = sparse(ones(n_y, n_x))
        zeroed.nzval .= vec(byx)
        for p in (
            byx, sparse(byx), sparse(Float64.(byx)), sparse(match)', transpose(sparse(match)), match', BitMatrix(byx), Matrix{Bool}(byx), zeroed,
            pairs, shuffle([pairs; pairs]), [i => j for (i, j) in pairs],
        )
            @test loss_of(p) ≈ clip(s, match, 0.2) rtol = 1e-12
        end
        a, b = rand(-3:3, n_x), rand(-3:3, n_y)
        for p in ((a, b), (Float64.(a), Int8.(b)))
            @test loss_of(p) ≈ clip(s, a .== b', 0.2) rtol = 1e-12
        end
        for (p, text) in (
            (match, "expected a 20 × 30 matrix"), (Float64.(byx), "compare it with 0"), ((a .+ 0.5, b), "positives[1]: expected integers"),
            ((a .> 0, b), "got Bool"), ((string.(a), b), "String"), ((a, b, a), "got 3 items"), ((a[2:end], b), "got (29, 20)"), (a, "expected pairs"),
            ([(1, 21)], "(1, 1) to (30, 20)"), ([(0, 1)], "(1, 1)"), ([(1.0, 1.0)], "expected pairs"), ("diagonal", "got String"), (sparse(byx .* NaN), "finite"),
            (nothing, "30"), (zeros(Bool, n_y, n_x), "at least 1"),
        )
            @test occursin(text, message(() -> loss_of(p)))
        end
    end

    @testset "reports and warnings" begin
        _, info = fit(LinearUniCon(4; final_loss = 0), X, Y)
        @test info.final_loss === info.sampling_error === info.returned === info.held_apart === info.chosen.whiten === nothing
        @test info.distinct == (200, 200) && info.zero == (0, 0) && info.centred == (false, false) && isempty(info.trace)
        @test startswith(repr(info), "UniCon.FitInfo(completed, r = 4, $(info.n_iters) steps, loss 0.") && info.seconds.total > 0
        _, info = fit(LinearUniCon(4; whiten = 0.1, n_iters = 2, n_negatives = 40), X, Y)
        @test info.chosen.whiten == 0.1 && 0 < info.sampling_error < 10 && isfinite(info.final_loss)
        _, info = fit(BestUniCon(4), X, Y)
        @test info.held_back == (20, 20) && info.held_apart == 7 && info.trace[1].evaluations isa Int
        found = evaluate(want, want, [1]; resamples = 0)
        @test found.x2y.intervals === found.x2y.mrr_interval === nothing && found.x2y.median_rank == 1
        spoilt = copy(X)
        spoilt[:, 7] .= 0
        @test_logs (:warn, r"zero") match_mode = :any fit(LinearUniCon(4), spoilt, Y)
        @test_logs fit(LinearUniCon(4; whiten = 0.01), X, Y)
        # Sampled negatives.
        w = Weights(want, want; n_negatives = 50, seed = 1)
        @test value(w) == value(Weights(want, want; n_negatives = 50, seed = 1)) != value(Weights(want, want; n_negatives = 50, seed = 2))
        @test contrastive_grad(want, want; n_negatives = 50, seed = 1)[1] ≈ value(w)
        @test unmatched(Weights(want, want; positives = ([0; 2:200], 1:200))) == (1, 1)
        # A cancellation ends one call, unless it is taken back.
        context = Context(; n_threads = 1)
        cancel(context)
        @test occursin("cancelled", message(() -> fit(LinearUniCon(3), X, Y; context = context)))
        @test fit(LinearUniCon(3), X, Y; context = context)[1].r == 3
        cancel(context)
        cancel_clear(context)
        @test fit(LinearUniCon(3), X, Y; context = context)[1].r == 3
        for ties in (:expected, :lower_index, :optimistic, :pessimistic)
            same = repeat(want[:, 1:1], 1, 200)
            @test recall(same, want, [3]; ties = ties).y2x ≈ evaluate(same, want, [3]; ties = ties, resamples = 0).y2x.recall
        end
        usual, all_samples = (fit(KernelUniCon(4, Kernel(:rbf; gamma = 0.01); landmarks = l), [X X], [Y Y])[1] for l in (50, :all))
        @test length(to_bytes(all_samples)) > length(to_bytes(usual))
    end

    @testset "options" begin
        for (f, text) in (
            (() -> fit(LinearUniCon(3; n_iters = 2.5), X, Y), "n_iters"), (() -> fit(LinearUniCon(3; whiten = true), X, Y), "whiten"),
            (() -> fit(LinearUniCon(3; seed = -1), X, Y), "seed"), (() -> Loss(:clip; tau = "hot"), "tau"), (() -> Context(; threads = 3), "threads"),
            (() -> Context(; n_threads = 2^40), "n_threads"), (() -> fit(LinearUniCon(3; checkpoint = "a\0b"), X, Y), "checkpoint"),
            (() -> fit(LinearUniCon(3), X, Y; validation = X), "validation"), (() -> search(want, want, 0), "k: expected"),
            (() -> fit(KernelUniCon(3, Kernel(:rbf); landmarks = :some), X, Y), "landmarks: expected one of all"), (() -> Weights(want, want; seed = -1), "seed"), (() -> save(model, "a\0b"), "NUL"),
        )
            @test occursin(text, message(f))
        end
        @test fit(LinearUniCon(3; whiten = nothing), X, Y)[1].r == 3
    end

    @testset "threads" begin
        println(Threads.nthreads(), " threads") # as many as there are cores, at most the four that were asked for
        expected, same = encode(model, :x, X), zeros(Bool, 40)
        Threads.@threads for k in 1:40
            same[k] = encode(model, :x, X) == expected
        end
        @test all(same)
        shared, w = Context(; n_threads = 1), Weights(want, want)
        d = dense(w)
        Threads.@threads for k in 1:40
            same[k] = encode(model, :x, X; context = shared) == expected && dense(w) == d
        end
        @test all(same)
        # Calls from a progress function; what it throws is thrown on.
        inner = Int[]
        fit(LinearUniCon(3), X, Y; progress = _ -> (length(inner) < 2 && push!(inner, fit(LinearUniCon(2), X, Y)[1].r); nothing))
        @test inner == [2, 2]
        @test_throws DomainError fit(LinearUniCon(3), X, Y; progress = _ -> throw(DomainError(1)))
        @test_throws UniConError fit(LinearUniCon(3), X, Y; progress = _ -> false)
        # Finalisers in any order, while others compute.
        Threads.@threads for k in 1:20
            c = Context(; n_threads = 1)
            m, _ = fit(LinearUniCon(2), X, Y; context = c)
            Weights(encode(m, :x, X; context = c), encode(m, :y, Y; context = c); context = c)
            k % 5 == 0 && GC.gc(false)
        end
        GC.gc()
        @test encode(model, :x, X) == expected
    end

    @testset "every name is documented" begin
        documented = Base.Docs.meta(UniCon)
        @test [name for name in [names(UniCon); :FitInfo] if !haskey(documented, Base.Docs.Binding(UniCon, name))] == []
    end

    @testset "generic functions of StatsAPI" begin
        # A package of that name with the two functions stands for StatsAPI, which no test may download.
        folder = mktempdir()
        mkpath(joinpath(folder, "StatsAPI", "src"))
        write(joinpath(folder, "StatsAPI", "src", "StatsAPI.jl"), "module StatsAPI\nfunction fit end\nfunction predict end\nend\n")
        push!(LOAD_PATH, folder)
        extension = Base.include(Main, joinpath(dirname(dirname(pathof(UniCon))), "ext", "UniConStatsAPIExt.jl"))
        generic = getfield(extension, :StatsAPI)
        again, info = Base.invokelatest(generic.fit, LinearUniCon(6; whiten = 0.01), X, Y)
        @test info.chosen.whiten == 0.01 && encode(again, :x, X) == encode(model, :x, X)
        found = Base.invokelatest(generic.predict, model, X, Y)
        @test length(found) == 200 && sum(found .== 1:200) / 200 ≈ recall(encode(model, :x, X), encode(model, :y, Y), [1]).x2y[1]
    end

    @testset "an interrupt" begin
        Base.exit_on_sigint(false)
        big = randn(Float32, 96, 8000)
        begun = time()
        heard = try
            run(`sh -c "sleep 1; kill -INT $(getpid())"`; wait = false)
            fit(LinearUniCon(16; n_iters = 100000), big, big)
            "nothing was thrown"
        catch e
            e
        end
        @test heard isa InterruptException && time() - begun < 20
        @test fit(LinearUniCon(3), X, Y)[1].r == 3
    end
end
