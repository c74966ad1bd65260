"""
    LinearUniCon(r = nothing; loss = nothing, preset = :default, options...)

The linear solver with `r`-dimensional embeddings. `preset` is `:default` or a schedule of the paper's experiments (`:paper_linear`, `:paper_kernel`,
`:paper_flickr`, `:paper_coco_clip`, `:paper_coco_resnet`, or `:paper`: that of synthetic data, for linear or kernel encoders), which brings its `r` and its
loss where these are not given; without one the loss is clip with its defaults. `options` are the fields of `unicon_fit_options_t`: `n_iters`, `tol`, `rho`,
`ridge`, `factorization` (`:sqrt`, `:orthonormal`, `:power` with `power`), `svd` (`:full`, `:randomized`), `init` (`:zeros`,
`:random`, `:gaussian`), `scale_inputs`, `final_loss`, `drop_trailing`, `whiten`, `batch_size`, `n_batches`, `n_negatives`, `growth`, `exact_last`, `damping`
([`Damping`](@ref)), `refine` ([`Refine`](@ref)), `checkpoint` (a file), `budget` (seconds), `seed`, `center` (`:auto`, `:on`, `:off`: whether
the mean of the features is taken out).
"""
struct LinearUniCon
    r::Union{Nothing,Int}
    loss::Union{Nothing,Loss}
    preset::Symbol
    options::Dict{Symbol,Any}
    LinearUniCon(r = nothing; loss = nothing, preset = :default, options...) = new(r, loss, preset, Dict{Symbol,Any}(options))
end

const PRESETS = (default = 0, paper = 1, paper_linear = 2, paper_kernel = 3, paper_flickr = 4, paper_coco_clip = 5, paper_coco_resnet = 6)

"""
    KernelUniCon(r, kernel; landmarks = nothing, loss = nothing, options...)

The kernel solver. `landmarks` is a number of Nystrom reference points, a vector of sample numbers (from 1), or `:all`, which uses every
sample; `nothing` is 512, at most the samples. `options` as for [`LinearUniCon`](@ref), and `kernel_ridge`.
"""
struct KernelUniCon
    linear::LinearUniCon
    kernel::Kernel
    landmarks::Union{Nothing,Int,Vector{Int64}}
    function KernelUniCon(r, kernel; landmarks = nothing, options...)
        return new(LinearUniCon(r; options...), kernel, from_zero(landmarks))
    end
end

"""
    BestUniCon(r = :auto; loss = Loss(), tau = nothing, kernel = nothing, landmarks = nothing, whiten, powers, widths, options...)

The solver that needs no tuning: whitening, one spectral update and descent on the loss from there, with the shrinkage, the power
and, with `tau = :auto`, the temperature chosen on validation pairs, or on a tenth of the samples that is held back. `r` is a number, `:auto`,
or a share of the energy below 1. `whiten`, `powers` and `widths` are vectors of candidates. `options` are the other fields of
`unicon_best_options_t`: `refine` ([`Refine`](@ref)), `minibatch` ([`Minibatch`](@ref)), `n_negatives`, `exact`, `final_loss`, `kernel_ridge`, `checkpoint`, `budget`, `seed`, `center`
(`:auto` judges it too, `:on`, `:off`).
"""
struct BestUniCon
    r::Union{Symbol,Int,Float64}
    loss::Loss
    tau::Union{Nothing,Symbol}
    kernel::Union{Nothing,Kernel}
    landmarks::Union{Nothing,Int,Vector{Int64}}
    candidates::NTuple{3,Vector{Float64}}
    options::Dict{Symbol,Any}
    function BestUniCon(r = :auto; loss = Loss(), tau = nothing, kernel = nothing, landmarks = nothing, whiten = Float64[], powers = Float64[], widths = Float64[], options...)
        tau in (nothing, :auto) || throw(ArgumentError("tau: expected :auto; a temperature is part of the loss"))
        candidates = map(Vector{Float64}, (whiten, powers, widths))
        return new(r, loss, tau, kernel, from_zero(landmarks), candidates, Dict{Symbol,Any}(options))
    end
end

# Rows from 0; UNICON_LANDMARKS_ALL.
from_zero(landmarks) = landmarks isa AbstractVector ? whole("landmarks", landmarks) .- 1 : landmarks
from_zero(landmarks::Symbol) = Int(choose("landmarks", landmarks, (all = -1,)))

function set_landmarks!(raw, landmarks)
    if landmarks isa Int
        raw.n_landmarks = landmarks
    elseif landmarks isa Vector
        raw.n_landmarks, raw.landmarks = length(landmarks), pointer(landmarks)
    end
    return raw
end

function fit_options(solver::LinearUniCon, kernel = nothing)
    raw = FitOptions_t()
    check(c_fit_options_init(raw))
    # Before the preset, which sets what is not set, and of which the paper's depends on whether there is a kernel.
    solver.r === nothing || (raw.r = solver.r)
    solver.loss === nothing || (raw.loss = pointer_from_objref(solver.loss.raw))
    kernel === nothing || (raw.kernel = pointer_from_objref(kernel.raw))
    check(c_fit_options_preset(raw, choose("preset", solver.preset, PRESETS)))
    raw.r > 0 || throw(ArgumentError("r: expected the dimension of the embeddings, which the preset $(solver.preset) does not bring"))
    return set!(raw, solver.options)
end

function fit_options(solver::KernelUniCon)
    raw = fit_options(solver.linear, solver.kernel)
    return set_landmarks!(raw, solver.landmarks)
end

function fit_options(solver::BestUniCon)
    raw = BestOptions_t()
    check(c_best_options_init(raw))
    raw.loss = pointer_from_objref(solver.loss.raw)
    if solver.r === :auto
        raw.dimension = 2
    elseif solver.r isa Float64 && solver.r < 1
        raw.dimension, raw.energy = 1, solver.r
    else
        raw.r = solver.r
    end
    raw.tau_auto = solver.tau === :auto
    solver.kernel === nothing || (raw.kernel = pointer_from_objref(solver.kernel.raw))
    whiten, powers, widths = solver.candidates
    isempty(whiten) || ((raw.whiten, raw.n_whiten) = (pointer(whiten), length(whiten)))
    isempty(powers) || ((raw.powers, raw.n_powers) = (pointer(powers), length(powers)))
    isempty(widths) || ((raw.widths, raw.n_widths) = (pointer(widths), length(widths)))
    set_landmarks!(raw, solver.landmarks)
    return set!(raw, solver.options)
end

mutable struct ProgressCall
    f::Any
    thrown::Any
end

function on_progress(progress::Ptr{Progress_t}, user::Ptr{Cvoid})::Int32
    call = unsafe_pointer_to_objref(user)::ProgressCall
    try
        return call.f(unsafe_load(progress)) === false ? Int32(1) : Int32(0)
    catch e
        call.thrown = e
        return Int32(1)
    end
end

"""
    fit(solver, X, Y; positives, validation, warm_start, progress, context) -> (Model, FitInfo)

Fits encoders on `X` (`d1 × n_x`) and `Y` (`d2 × n_y`). `positives` is `nothing` (column i matches column i), a tuple of group ids, a
matrix `n_y × n_x`, sparse or of `Bool`, or a vector of pairs `(i, j)`. `validation` is a tuple `(X, Y)` or `(X, Y, positives)`. `progress` is
called with the progress struct and cancels by returning `false`; an exception in it, also that of Ctrl-C, cancels and is thrown on.
"""
function fit(
    solver::Union{LinearUniCon,KernelUniCon,BestUniCon},
    X,
    Y;
    positives = nothing,
    validation = nothing,
    warm_start::Union{Nothing,Model} = nothing,
    progress = nothing,
    context::Union{Nothing,Context} = nothing,
)
    X, Y = readable("X", X), readable("Y", Y)
    options = fit_options(solver)
    pairs = Pairs(X, Y, Positives(positives, size(X, 2), size(Y, 2)))
    held_out = begin_from!(options, validation, warm_start)
    # Also without a function of the caller's: Julia hears Ctrl-C only while it runs code of its own.
    call = ProgressCall(progress === nothing ? (_ -> nothing) : progress, nothing)
    options.progress = @cfunction(on_progress, Int32, (Ptr{Progress_t}, Ptr{Cvoid}))
    options.progress_user = pointer_from_objref(call)
    model, report = Ref{Ptr{Cvoid}}(C_NULL), Ref{Ptr{Cvoid}}(C_NULL)
    run = solver isa BestUniCon ? c_fit_best : c_fit
    try
        on(context) do c
            status = GC.@preserve solver pairs call warm_start held_out run(c.handle, options, pairs.raw, model, report)
            if call.thrown !== nothing
                status == 0 && c_model_destroy(model[])
                throw(call.thrown)
            end
            check(status, c.handle)
        end
        return Model(model[]), FitInfo(report[])
    finally
        c_report_destroy(report[])
    end
end

# Sets the validation pairs and the warm start of options, and returns what they borrow beside the model.
function begin_from!(options, validation, warm_start)
    warm_start === nothing || (options.warm_start = warm_start.handle)
    validation === nothing && return nothing
    validation isa Tuple && length(validation) in (2, 3) || throw(ArgumentError("validation: expected (X, Y) or (X, Y, positives)"))
    X, Y = readable("validation[1]", validation[1]), readable("validation[2]", validation[2])
    pairs = Pairs(X, Y, Positives(length(validation) > 2 ? validation[3] : nothing, size(X, 2), size(Y, 2)))
    options.validation = pointer_from_objref(pairs.raw)
    return pairs
end

"""
    PartialFit(solver, d1, d2; accumulate = :moments, dtype = Float32, validation, warm_start, context)

A linear fit whose batches arrive one by one: [`add!`](@ref) a batch, [`finish!`](@ref) a pass. `accumulate` is `:moments` (Gram matrices and C
are summed: one solution of all batches, also with `whiten`) or `:solutions` (one per batch, averaged with the score on `validation`: the
batched mode of the paper).
"""
mutable struct PartialFit
    handle::Ptr{Cvoid}
    context::Context
    function PartialFit(
        solver::LinearUniCon,
        d1,
        d2;
        accumulate::Symbol = :moments,
        dtype::Type = Float32,
        validation = nothing,
        warm_start = nothing,
        context::Union{Nothing,Context} = nothing,
    )
        options = fit_options(solver)
        handle = Ref{Ptr{Cvoid}}(C_NULL)
        held_out = begin_from!(options, validation, warm_start)
        kind = choose("accumulate", accumulate, (moments = 0, solutions = 1))
        return on(context) do c
            GC.@preserve solver warm_start held_out begin
                check(c_partial_fit_create(c.handle, options, kind, d1, d2, UniCon.dtype(dtype), handle), c.handle)
            end
            finalizer(f -> c_partial_fit_destroy(f.handle), new(handle[], c))
        end
    end
end

Base.deepcopy_internal(::PartialFit, ::IdDict) = throw(ArgumentError("a stream of batches cannot be copied"))

"""
    add!(partial, X, Y; positives)

Adds one batch and returns its loss before the update.
"""
function add!(partial::PartialFit, X, Y; positives = nothing)
    X, Y = readable("X", X), readable("Y", Y)
    pairs = Pairs(X, Y, Positives(positives, size(X, 2), size(Y, 2)))
    loss = Ref(0.0)
    on(partial.context) do c
        GC.@preserve partial pairs check(c_partial_fit_add(partial.handle, pairs.raw, loss), c.handle)
    end
    return loss[]
end

"""
    current(partial)

The [`Model`](@ref) of the batches of this pass so far.
"""
function current(partial::PartialFit)
    handle = Ref{Ptr{Cvoid}}(C_NULL)
    on(c -> GC.@preserve(partial, check(c_partial_fit_model(partial.handle, handle), c.handle)), partial.context)
    return Model(handle[])
end

"""
    finish!(partial)

Ends a pass: its [`Model`](@ref), from which the next pass begins.
"""
function finish!(partial::PartialFit)
    handle = Ref{Ptr{Cvoid}}(C_NULL)
    on(c -> GC.@preserve(partial, check(c_partial_fit_finish(partial.handle, handle), c.handle)), partial.context)
    return Model(handle[])
end
