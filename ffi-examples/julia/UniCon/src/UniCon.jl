"""
Closed-form contrastive alignment of two sets of features, over the C ABI of libunicon.

**Samples are columns**, as everywhere in Julia: `X` is `d1 × n` and embeddings are `r × n`. The library reads these arrays
where they lie; nothing is transposed or copied.

```julia
using UniCon
model, info = fit(LinearUniCon(128; whiten = 0.1), X, Y)
Zx, Zy = encode(model, :x, X), encode(model, :y, Y)
recall(Zx, Zy, [1, 5, 10])
```

The library is found as `libunicon` by the dynamic linker, or at `ENV["UNICON_LIBRARY"]`.
"""
module UniCon

import Libdl

export Context, Loss, Kernel, Damping, Refine, Minibatch, LinearUniCon, KernelUniCon, BestUniCon, Model, Weights, PartialFit, UniConError
export fit, encode, similarity, encoder, search, recall, gram, contrastive_grad, cancel, save, load, linear_model
export add!, current, finish!, value, dense, apply, apply_t, cross_covariance, device_count

include("abi.jl")

function __init__()
    library[] = Libdl.dlopen(get(ENV, "UNICON_LIBRARY", "libunicon"))
    c_abi_version() == ABI_VERSION ||
        error("libunicon has ABI $(c_abi_version()), this package needs $ABI_VERSION")
    return nothing
end

"""
    UniConError(status, text)

A failed call: the status of `unicon.h` and the text, which names the argument, what was expected and what came.
"""
struct UniConError <: Exception
    status::Int32
    text::String
end
Base.showerror(io::IO, e::UniConError) = print(io, unsafe_string(c_status_string(e.status)), ": ", e.text)

function check(status::Int32, handle::Ptr{Cvoid} = C_NULL)
    status == 0 && return nothing
    length = c_last_error(handle, Ptr{UInt8}(C_NULL), 0)
    buffer = Vector{UInt8}(undef, length + 1)
    GC.@preserve buffer c_last_error(handle, pointer(buffer), length + 1)
    throw(UniConError(status, String(buffer[1:length])))
end

"The version of the library."
version() = VersionNumber(unsafe_string(c_version()))

"""
    device_count(device = :cuda)

Usable devices of a kind, `:cpu` or `:cuda`.
"""
function device_count(device::Symbol = :cuda)
    count = Ref{Int32}(0)
    check(c_device_count(choose("device", device, (cpu = 1, cuda = 2)), count))
    return Int(count[])
end

choose(name, value, choices) =
    haskey(choices, value) ? Int32(choices[value]) :
    throw(ArgumentError("$name: expected one of $(join(keys(choices), ", ")), got $value"))

# ---------------------------------------------------------------------------------------------------- matrices

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

# ---------------------------------------------------------------------------------------------------- what is asked

const choices = Dict(
    :factorization => (sqrt = 0, orthonormal = 1, power = 2),
    :svd => (full = 0, randomized = 1),
    :init => (zeros = 0, random = 1),
)
# Fields that are set from something else.
const own = (
    :struct_size, :reserved, :kind, :r, :rank, :tau_auto, :loss, :kernel, :landmarks, :n_landmarks, :similarity, :stages, :n_stages,
    :n_whiten, :n_powers, :n_widths, :progress, :progress_user,
)

# Sets the field that an option names. What it points to is part of the solver, which the calls preserve.
function assign!(raw::T, name::Symbol, value) where {T}
    known = filter(field -> !(field in own), fieldnames(T))
    name in known || throw(ArgumentError("$name: expected one of $(join(known, ", "))"))
    if name in (:damping, :refine, :minibatch)
        value = pointer_from_objref(value.raw)
    elseif name === :checkpoint
        value = pointer(value::String)
    elseif value isa Symbol
        haskey(choices, name) || throw(ArgumentError("$name: expected a number, got $value"))
        value = choose(name, value, choices[name])
    end
    return setproperty!(raw, name, convert(fieldtype(T, name), value))
end

function set!(raw, options)
    foreach(p -> assign!(raw, p...), options)
    return raw
end

"""
    Loss(kind = :clip; tau, nu, margin, eps_pos, eps_neg, log_eps)

A loss: `:clip`, `:sigmoid`, `:triplet_hard` or `:triplet_smooth`.
"""
struct Loss
    raw::Loss_t
    function Loss(kind::Symbol = :clip; parameters...)
        raw = Loss_t()
        check(c_loss_init(raw, choose("loss", kind, (clip = 0, sigmoid = 1, triplet_hard = 2, triplet_smooth = 3))))
        set!(raw, parameters)
        return new(raw)
    end
end

"""
    Kernel(kind = :angular; beta, gamma, lengthscale, cos_clamp)

A kernel: `:linear`, `:cosine`, `:angular`, `:arccos`, `:exp_cosine`, `:rbf` or `:matern32`.
"""
struct Kernel
    raw::Kernel_t
    function Kernel(kind::Symbol = :angular; parameters...)
        raw = Kernel_t()
        kinds = (linear = 0, cosine = 1, angular = 2, arccos = 3, exp_cosine = 4, rbf = 5, matern32 = 6)
        check(c_kernel_init(raw, choose("kernel", kind, kinds)))
        set!(raw, parameters)
        return new(raw)
    end
end

"""
    Damping(; first, halvings, tol)

Damped updates with a line search on the loss: the option `damping` of [`LinearUniCon`](@ref).
"""
struct Damping
    raw::Damping_t
    function Damping(; parameters...)
        raw = Damping_t()
        check(c_damping_init(raw))
        set!(raw, parameters)
        return new(raw)
    end
end

"""
    Minibatch(; batch, epochs, min_steps, max_steps, rate, momentum, patience)

Descent on mini-batches: the option `minibatch` of [`BestUniCon`](@ref). A `batch` of 0 is none.
"""
struct Minibatch
    raw::Minibatch_t
    function Minibatch(; parameters...)
        raw = Minibatch_t()
        check(c_minibatch_init(raw))
        set!(raw, parameters)
        return new(raw)
    end
end

"""
    Refine(; stages = Int[], max_steps, tol, memory, patience, first_step)

Refinement by L-BFGS: the option `refine` of [`LinearUniCon`](@ref) and [`BestUniCon`](@ref). `stages` are the negatives per sample
in each stage in turn, 0 for all of them.
"""
struct Refine
    raw::Refine_t
    stages::Vector{Int64}
    function Refine(; stages = Int64[], parameters...)
        raw, stages = Refine_t(), Vector{Int64}(stages)
        check(c_refine_init(raw))
        set!(raw, parameters)
        if !isempty(stages)
            raw.stages, raw.n_stages = pointer(stages), length(stages)
        end
        return new(raw, stages)
    end
end

# Positives: nothing is the diagonal, a tuple of two vectors are group ids, anything with colptr and rowval (a SparseMatrixCSC
# whose columns are the samples of X, `Y samples × X samples`) is CSR.
struct Positives
    raw::Positives_t
    arrays::Tuple{Vector{Int64},Vector{Int64}}
end

function Positives(positives, n_x::Int, n_y::Int)
    raw = Positives_t()
    check(c_positives_init(raw))
    positives === nothing && return Positives(raw, (Int64[], Int64[]))
    if positives isa Tuple
        arrays = (Vector{Int64}(positives[1]), Vector{Int64}(positives[2]))
        lengths = (length(arrays[1]), length(arrays[2]))
        lengths == (n_x, n_y) || throw(DimensionMismatch("positives: expected $((n_x, n_y)) group ids, got $lengths"))
        raw.kind = 1
        raw.x_groups, raw.y_groups = pointer(arrays[1]), pointer(arrays[2])
        return Positives(raw, arrays)
    end
    size(positives) == (n_y, n_x) ||
        throw(DimensionMismatch("positives: expected a $n_y × $n_x sparse matrix (columns are samples of X), got $(size(positives))"))
    arrays = (Vector{Int64}(positives.colptr) .- 1, Vector{Int64}(positives.rowval) .- 1)
    raw.kind, raw.nnz = 2, length(arrays[2])
    raw.indptr, raw.indices = pointer(arrays[1]), pointer(arrays[2])
    return Positives(raw, arrays)
end

# ---------------------------------------------------------------------------------------------------- context

"""
    Context(; device = :cpu, device_id = 0, n_threads = 0, precision = :default, workspace_limit = 0)

A device (`:cpu`, `:cuda` or `:auto`), its threads and its limits. `precision` is that of similarities and weights where features are not
float64: `:float32`, `:bfloat16`, on CUDA also `:float16`. One call at a time; any number of contexts.
"""
mutable struct Context
    handle::Ptr{Cvoid}
    function Context(; device::Symbol = :cpu, device_id = 0, n_threads = 0, precision::Symbol = :default, workspace_limit = 0)
        options = ContextOptions_t()
        check(c_context_options_init(options))
        options.device_type = choose("device", device, (auto = 0, cpu = 1, cuda = 2))
        options.device_id, options.n_threads = device_id, n_threads
        options.precision = choose("precision", precision, (default = 0, float32 = 1, float16 = 3, bfloat16 = 4))
        options.workspace_limit = workspace_limit
        handle = Ref{Ptr{Cvoid}}(C_NULL)
        check(c_context_create(options, handle))
        return finalizer(c -> c_context_destroy(c.handle), new(handle[]))
    end
end

const default = Ref{Union{Nothing,Context}}(nothing)
"The context that calls use when they are given none: the CPU."
function default_context()
    default[] === nothing && (default[] = Context())
    return default[]::Context
end

"""
    cancel(context)

Stops the call in progress on a context; from any thread.
"""
cancel(context::Context) = (c_cancel(context.handle); nothing)

# ---------------------------------------------------------------------------------------------------- models

"A pair of encoders, made by [`fit`](@ref), [`load`](@ref) or [`linear_model`](@ref). Immutable."
mutable struct Model
    handle::Ptr{Cvoid}
    d1::Int
    d2::Int
    r::Int
    function Model(handle::Ptr{Cvoid})
        model = finalizer(m -> c_model_destroy(m.handle), new(handle, 0, 0, 0))
        d = ModelDescription_t()
        check(c_model_describe(handle, d))
        model.d1, model.d2, model.r = d.d1, d.d2, d.r
        return model
    end
end
Base.show(io::IO, m::Model) = print(io, "UniCon.Model(", m.d1, " and ", m.d2, " -> ", m.r, ")")

side_of(side::Symbol) = choose("side", side, (x = 0, y = 1))

"""
    encode(model, side, X; context)

Unit columns, `r × n`, of features `d × n`; `side` is `:x` or `:y`.
"""
function encode(model::Model, side::Symbol, X::StridedMatrix{<:Element}; context::Context = default_context())
    out = Matrix{wider(X, X)}(undef, model.r, size(X, 2))
    GC.@preserve model context X out begin
        check(c_model_encode(context.handle, model.handle, side_of(side), samples(X), samples(out)), context.handle)
    end
    return out
end

"""
    similarity(model, X, Y; context)

Cosines of all pairs, `n_x × n_y`.
"""
function similarity(model::Model, X::StridedMatrix{<:Element}, Y::StridedMatrix{<:Element}; context::Context = default_context())
    out = Matrix{wider(X, Y)}(undef, size(X, 2), size(Y, 2))
    GC.@preserve model context X Y out begin
        check(c_model_similarity(context.handle, model.handle, samples(X), samples(Y), plain(out)), context.handle)
    end
    return out
end

"""
    encoder(model, side; context)

The encoder matrix `F` of a linear model, `r × d`: embeddings are the normalised columns of `F * X`.
"""
function encoder(model::Model, side::Symbol; context::Context = default_context())
    out = Matrix{Float64}(undef, model.r, side === :x ? model.d1 : model.d2)
    GC.@preserve model context out begin
        check(c_model_encoder(context.handle, model.handle, side_of(side), plain(out)), context.handle)
    end
    return out
end

"""
    linear_model(F1, F2; context)

A model from encoder matrices `r × d1` and `r × d2`.
"""
function linear_model(F1::StridedMatrix{<:Element}, F2::StridedMatrix{<:Element}; context::Context = default_context())
    handle = Ref{Ptr{Cvoid}}(C_NULL)
    GC.@preserve context F1 F2 begin
        check(c_model_create_linear(context.handle, plain(F1), plain(F2), handle), context.handle)
    end
    return Model(handle[])
end

"""
    save(model, path; context)

Writes a model as a safetensors file.
"""
save(model::Model, path::AbstractString; context::Context = default_context()) =
    GC.@preserve model context check(c_model_save(context.handle, model.handle, path), context.handle)

"""
    load(path; context)

Reads a model.
"""
function load(path::AbstractString; context::Context = default_context())
    handle = Ref{Ptr{Cvoid}}(C_NULL)
    GC.@preserve context check(c_model_load(context.handle, path, handle), context.handle)
    return Model(handle[])
end

# ---------------------------------------------------------------------------------------------------- fit

"""
    LinearUniCon(r; loss = Loss(), preset = :default, options...)

The linear solver with `r`-dimensional embeddings. `options` are the fields of `unicon_fit_options_t`: `n_iters`, `tol`, `rho`,
`ridge`, `factorization` (`:sqrt`, `:orthonormal`, `:power` with `power`), `svd` (`:full`, `:randomized`), `init` (`:zeros`,
`:random`), `scale_inputs`, `final_loss`, `drop_trailing`, `whiten`, `batch_size`, `n_batches`, `n_negatives`, `growth`, `exact_last`, `damping`
([`Damping`](@ref)), `refine` ([`Refine`](@ref)), `checkpoint` (a file), `budget` (seconds), `seed`.
"""
struct LinearUniCon
    r::Int
    loss::Loss
    preset::Symbol
    options::Dict{Symbol,Any}
    LinearUniCon(r; loss = Loss(), preset = :default, options...) = new(r, loss, preset, Dict{Symbol,Any}(options))
end

"""
    KernelUniCon(r, kernel = Kernel(); landmarks = nothing, loss = Loss(), options...)

The kernel solver. `landmarks` is a number of Nystrom reference points, or a vector of sample numbers (from 1); `nothing` uses
every sample. `options` as for [`LinearUniCon`](@ref), and `kernel_ridge`.
"""
struct KernelUniCon
    linear::LinearUniCon
    kernel::Kernel
    landmarks::Union{Nothing,Int,Vector{Int64}}
    function KernelUniCon(r, kernel = Kernel(); landmarks = nothing, options...)
        return new(LinearUniCon(r; options...), kernel, from_zero(landmarks))
    end
end

"""
    BestUniCon(r = :auto; loss = Loss(), tau = nothing, kernel = nothing, landmarks = nothing, whiten, powers, widths, options...)

The solver that needs no tuning: whitening, one spectral update and a refinement on sampled negatives, with the shrinkage, the power
and, with `tau = :auto`, the temperature chosen on validation pairs, or on a tenth of the samples that is held back. `r` is a number, `:auto`,
or a share of the energy below 1. `whiten`, `powers` and `widths` are vectors of candidates. `options` are the other fields of
`unicon_best_options_t`: `refine` ([`Refine`](@ref)), `minibatch` ([`Minibatch`](@ref)), `n_negatives`, `exact`, `final_loss`, `kernel_ridge`, `checkpoint`, `budget`, `seed`.
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

from_zero(landmarks) = landmarks isa AbstractVector ? Vector{Int64}(landmarks) .- 1 : landmarks

function set_landmarks!(raw, landmarks)
    if landmarks isa Int
        raw.n_landmarks = landmarks
    elseif landmarks isa Vector
        raw.n_landmarks, raw.landmarks = length(landmarks), pointer(landmarks)
    end
    return raw
end

function fit_options(solver::LinearUniCon)
    raw = FitOptions_t()
    check(c_fit_options_init(raw))
    check(c_fit_options_preset(raw, choose("preset", solver.preset, (default = 0, paper = 1))))
    raw.r = solver.r
    raw.loss = pointer_from_objref(solver.loss.raw)
    return set!(raw, solver.options)
end

function fit_options(solver::KernelUniCon)
    raw = fit_options(solver.linear)
    raw.kernel = pointer_from_objref(solver.kernel.raw)
    return set_landmarks!(raw, solver.landmarks)
end

function fit_options(solver::BestUniCon)
    raw = BestOptions_t()
    check(c_best_options_init(raw))
    raw.loss = pointer_from_objref(solver.loss.raw)
    if solver.r === :auto
        raw.rank = 2
    elseif solver.r isa Float64 && solver.r < 1
        raw.rank, raw.energy = 1, solver.r
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

"What a fit did."
struct FitInfo
    outcome::Symbol
    n_iters::Int
    loss::Vector{Float64}
    change::Vector{Float64}
    singular_values::Vector{Float64}
    "History of damping and refinement: seconds, loss, score, negatives, evaluations of each step."
    trace::Vector{TracePoint_t}
    final_loss::Float64
    rows_without_positives::Int
    cols_without_positives::Int
    "Shrinkage (-1: none), power, temperature and dimension, chosen or asked for."
    chosen::NamedTuple{(:whiten, :power, :tau, :r),Tuple{Float64,Float64,Float64,Int}}
    held_back::Tuple{Int,Int}
    seconds::Float64
    peak_bytes::Int
end

"""
    fit(solver, X, Y; positives, validation, warm_start, progress, context) -> (Model, FitInfo)

Fits encoders on `X` (`d1 × n_x`) and `Y` (`d2 × n_y`). `positives` is `nothing` (column i matches column i), a tuple of group ids, or a
sparse `n_y × n_x` matrix. `validation` is a tuple `(X, Y)` or `(X, Y, positives)`. `progress` is called with the progress struct and
cancels by returning `false`.
"""
function fit(
    solver::Union{LinearUniCon,KernelUniCon,BestUniCon},
    X::StridedMatrix{<:Element},
    Y::StridedMatrix{<:Element};
    positives = nothing,
    validation = nothing,
    warm_start::Union{Nothing,Model} = nothing,
    progress = nothing,
    context::Context = default_context(),
)
    room = 4096 # points of the history that are kept
    options = fit_options(solver)
    p = Positives(positives, size(X, 2), size(Y, 2))
    call = ProgressCall(progress, nothing)
    if progress !== nothing
        options.progress = @cfunction(on_progress, Int32, (Ptr{Progress_t}, Ptr{Cvoid}))
        options.progress_user = pointer_from_objref(call)
    end
    info = FitInfo_t()
    check(c_fit_info_init(info))
    losses, changes, trace = zeros(room), zeros(room), Vector{TracePoint_t}(undef, room)
    singular = zeros(min(size(X, 1), size(Y, 1)))
    info.loss, info.change, info.history_capacity = pointer(losses), pointer(changes), room
    info.trace, info.trace_capacity = pointer(trace), room
    info.singular_values, info.singular_capacity = pointer(singular), length(singular)
    handle = Ref{Ptr{Cvoid}}(C_NULL)
    start = warm_start === nothing ? C_NULL : warm_start.handle
    held_out, keep = validation_of(validation)
    run = solver isa BestUniCon ? c_fit_best : c_fit
    status = GC.@preserve solver X Y p call losses changes trace singular warm_start context held_out keep begin
        v = held_out === nothing ? Ptr{Validation_t}(C_NULL) : Base.unsafe_convert(Ptr{Validation_t}, held_out)
        run(context.handle, options, samples(X), samples(Y), p.raw, v, start, handle, info)
    end
    call.thrown === nothing || throw(call.thrown)
    check(status, context.handle)
    first_of(values, n) = values[1:min(length(values), n)]
    return Model(handle[]),
    FitInfo(
        (:completed, :converged, :cancelled, :out_of_time)[info.outcome+1],
        info.n_iters,
        first_of(losses, info.n_loss),
        first_of(changes, info.n_change),
        first_of(singular, info.n_singular_values),
        first_of(trace, info.n_trace),
        info.final_loss,
        info.rows_without_positives,
        info.cols_without_positives,
        (whiten = info.whiten, power = info.power, tau = info.tau, r = Int(info.r)),
        (info.rows_held_back, info.cols_held_back),
        info.seconds,
        info.peak_bytes,
    )
end

function validation_of(validation)
    validation === nothing && return nothing, nothing
    X, Y = validation[1], validation[2]
    p = Positives(length(validation) > 2 ? validation[3] : nothing, size(X, 2), size(Y, 2))
    x, y = Ref(samples(X)), Ref(samples(Y))
    pointers = Validation_t(Base.unsafe_convert(Ptr{Matrix_t}, x), Base.unsafe_convert(Ptr{Matrix_t}, y), pointer_from_objref(p.raw))
    return Ref(pointers), (X, Y, p, x, y)
end

"""
    PartialFit(solver, d1, d2; stream = :sums, dtype = Float32, validation, warm_start, context)

A linear fit whose batches arrive one by one: [`add!`](@ref) a batch, [`finish!`](@ref) a pass. `stream` is `:sums` (Gram matrices and C
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
        stream::Symbol = :sums,
        dtype::Type = Float32,
        validation = nothing,
        warm_start = nothing,
        context::Context = default_context(),
    )
        options = fit_options(solver)
        handle = Ref{Ptr{Cvoid}}(C_NULL)
        start = warm_start === nothing ? C_NULL : warm_start.handle
        held_out, keep = validation_of(validation)
        kind = choose("stream", stream, (sums = 0, solutions = 1))
        status = GC.@preserve solver warm_start context held_out keep begin
            v = held_out === nothing ? Ptr{Validation_t}(C_NULL) : Base.unsafe_convert(Ptr{Validation_t}, held_out)
            c_partial_fit_create(context.handle, options, kind, d1, d2, UniCon.dtype(dtype), v, start, handle)
        end
        check(status, context.handle)
        return finalizer(f -> c_partial_fit_destroy(f.handle), new(handle[], context))
    end
end

"""
    add!(partial, X, Y; positives)

Adds one batch and returns its loss before the update.
"""
function add!(partial::PartialFit, X::StridedMatrix{<:Element}, Y::StridedMatrix{<:Element}; positives = nothing)
    p = Positives(positives, size(X, 2), size(Y, 2))
    loss = Ref(0.0)
    GC.@preserve partial X Y p begin
        check(c_partial_fit_add(partial.handle, samples(X), samples(Y), p.raw, loss), partial.context.handle)
    end
    return loss[]
end

"""
    current(partial)

The [`Model`](@ref) of the batches of this pass so far.
"""
function current(partial::PartialFit)
    handle = Ref{Ptr{Cvoid}}(C_NULL)
    GC.@preserve partial check(c_partial_fit_model(partial.handle, handle), partial.context.handle)
    return Model(handle[])
end

"""
    finish!(partial)

Ends a pass: its [`Model`](@ref), from which the next pass begins.
"""
function finish!(partial::PartialFit)
    handle = Ref{Ptr{Cvoid}}(C_NULL)
    GC.@preserve partial check(c_partial_fit_finish(partial.handle, handle), partial.context.handle)
    return Model(handle[])
end

# ---------------------------------------------------------------------------------------------------- the primitive

"""
    Weights(Zx, Zy; loss = Loss(), positives = nothing, context)
    Weights(s; loss = Loss(), positives = nothing, context)

`S(γ) = -∂L/∂s` of embeddings with unit columns (`r × n`), as an operator: [`value`](@ref), [`apply`](@ref), [`apply_t`](@ref),
[`cross_covariance`](@ref), [`dense`](@ref). `s` is a matrix of cosines, `n_x × n_y`, for small n.
"""
mutable struct Weights
    handle::Ptr{Cvoid}
    context::Context
    n_x::Int
    n_y::Int
    function Weights(Zx::StridedMatrix{<:Element}, Zy::StridedMatrix{<:Element}; loss::Loss = Loss(), positives = nothing, context::Context = default_context())
        p = Positives(positives, size(Zx, 2), size(Zy, 2))
        handle = Ref{Ptr{Cvoid}}(C_NULL)
        GC.@preserve Zx Zy p loss context begin
            check(c_weights_create(context.handle, loss.raw, samples(Zx), samples(Zy), p.raw, handle), context.handle)
        end
        return finalizer(w -> c_weights_destroy(w.handle), new(handle[], context, size(Zx, 2), size(Zy, 2)))
    end
    function Weights(s::StridedMatrix{<:Element}; loss::Loss = Loss(), positives = nothing, context::Context = default_context())
        p = Positives(positives, size(s, 1), size(s, 2))
        handle = Ref{Ptr{Cvoid}}(C_NULL)
        GC.@preserve s p loss context begin
            check(c_weights_create_similarity(context.handle, loss.raw, plain(s), p.raw, handle), context.handle)
        end
        return finalizer(w -> c_weights_destroy(w.handle), new(handle[], context, size(s, 1), size(s, 2)))
    end
end

"""
    value(weights)

The loss L.
"""
function value(w::Weights)
    out, rows, cols = Ref(0.0), Ref(0.0), Ref(0.0)
    GC.@preserve w check(c_weights_loss(w.handle, out, rows, cols), w.context.handle)
    return out[]
end

"""
    dense(weights)

S itself, `n_x × n_y`; for small n.
"""
function dense(w::Weights)
    out = Matrix{Float64}(undef, w.n_x, w.n_y)
    GC.@preserve w out check(c_weights_dense(w.handle, plain(out)), w.context.handle)
    return out
end

"""
    apply(weights, V)

`V Sᵀ`: column i is `Σ_j S_ij v_j`, for `V` of `c × n_y`.
"""
function apply(w::Weights, V::StridedMatrix{<:Element})
    out = Matrix{wider(V, V)}(undef, size(V, 1), w.n_x)
    GC.@preserve w V out check(c_weights_apply(w.handle, samples(V), samples(out)), w.context.handle)
    return out
end

"""
    apply_t(weights, U)

`U S`: column j is `Σ_i S_ij u_i`, for `U` of `c × n_x`.
"""
function apply_t(w::Weights, U::StridedMatrix{<:Element})
    out = Matrix{wider(U, U)}(undef, size(U, 1), w.n_y)
    GC.@preserve w U out check(c_weights_apply_t(w.handle, samples(U), samples(out)), w.context.handle)
    return out
end

"""
    cross_covariance(weights, X, Y)

The contrastive cross-covariance `X S Yᵀ`, `d1 × d2`.
"""
function cross_covariance(w::Weights, X::StridedMatrix{<:Element}, Y::StridedMatrix{<:Element})
    out = Matrix{Float64}(undef, size(X, 1), size(Y, 1))
    GC.@preserve w X Y out check(c_weights_cross(w.handle, samples(X), samples(Y), plain(out)), w.context.handle)
    return out
end

"""
    contrastive_grad(Zx, Zy; loss = Loss(), positives = nothing, context) -> (value, dZx, dZy)

The loss of embeddings with unit columns and its gradients: a loss layer for neural encoders.
"""
function contrastive_grad(Zx::StridedMatrix{<:Element}, Zy::StridedMatrix{<:Element}; loss::Loss = Loss(), positives = nothing, context::Context = default_context())
    p = Positives(positives, size(Zx, 2), size(Zy, 2))
    dZx, dZy = Matrix{wider(Zx, Zy)}(undef, size(Zx)), Matrix{wider(Zx, Zy)}(undef, size(Zy))
    out = Ref(0.0)
    GC.@preserve Zx Zy dZx dZy p loss context begin
        status = c_contrastive_grad(context.handle, loss.raw, samples(Zx), samples(Zy), p.raw, out, samples(dZx), samples(dZy))
        check(status, context.handle)
    end
    return out[], dZx, dZy
end

# ---------------------------------------------------------------------------------------------------- retrieval

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

end # module
