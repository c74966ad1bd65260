# Reports of fits and evaluations: values by their key, `nothing` where a report has none.

const NO_VALUE = 13

found(status) = status == NO_VALUE ? false : (check(status); true)

function real_of(report::Ptr{Cvoid}, key::Symbol)
    value = Ref(0.0)
    return found(c_report_real(report, REPORT_KEYS[key], value)) ? value[] : nothing
end

function integer_of(report::Ptr{Cvoid}, key::Symbol)
    value = Ref{Int64}(0)
    return found(c_report_integer(report, REPORT_KEYS[key], value)) ? Int(value[]) : nothing
end

function series_of(report::Ptr{Cvoid}, key::Symbol)
    count = Ref{Int64}(0)
    found(c_report_series(report, REPORT_KEYS[key], Ptr{Float64}(C_NULL), 0, count)) || return nothing
    values = Vector{Float64}(undef, count[])
    GC.@preserve values check(c_report_series(report, REPORT_KEYS[key], pointer(values), length(values), count))
    return values
end

both(value, report, name) = (value(report, Symbol(name, :_x)), value(report, Symbol(name, :_y)))

"A point of the history of damping and refinement."
const TracePoint = NamedTuple{(:seconds, :loss, :score, :negatives, :evaluations, :sampling_error),
                              Tuple{Float64,Float64,Float64,Int,Int,Float64}}

function trace_of(report::Ptr{Cvoid})
    columns = map(name -> series_of(report, Symbol(:trace_, name)), fieldnames(TracePoint))
    return TracePoint[TracePoint(map(column -> column[i], columns)) for i in eachindex(columns[1])]
end

"""
What a fit did. What a fit has not is `nothing`. `UniCon.FitInfo` has the fields

- `outcome`: `:completed`, `:converged` or `:out_of_time`; `n_iters`: spectral updates, and steps of damping and refinement;
- `loss`: the loss that every update started from, then those of `trace`; `change`: the norm of the change of `F1' * F2` by each update from
  the second on; `singular_values`: of the last C, falling;
- `trace`: the history of damping and refinement, a vector of named tuples with seconds, loss, score (NaN without validation), negatives,
  evaluations and sampling_error; `returned`: the point of it, from 1, whose encoders the model has, `nothing` for those it started from;
- `final_loss`: the loss of the fitted encoders; `sampling_error`: the estimated relative error of the last C with sampled negatives;
- `rejected_update`: whether the last update was made and not kept, for it raised the loss;
- `chosen`: shrinkage (`nothing`: none), power, temperature and dimension, chosen or asked for;
- `without_positives`, `zero`, `distinct`, `held_back`, `centred`: of both sides, how many samples match nothing, are all zero, differ, were held
  back to choose on, and whether their mean was taken out; `dropped`: samples that no batch used;
- `held_apart`: what held-back samples have in common with none that trained: 1 matches + 2 copies of their x + 4 copies of their y;
- `evaluations`: of loss and gradient; `seconds`: a named tuple, `total` and its parts; `workspace_bytes` and `peak_bytes`.
"""
struct FitInfo
    outcome::Symbol
    n_iters::Int
    loss::Vector{Float64}
    change::Vector{Float64}
    singular_values::Vector{Float64}
    trace::Vector{TracePoint}
    returned::Union{Nothing,Int}
    final_loss::Union{Nothing,Float64}
    sampling_error::Union{Nothing,Float64}
    rejected_update::Bool
    chosen::NamedTuple{(:whiten, :power, :tau, :r),Tuple{Union{Nothing,Float64},Float64,Float64,Int}}
    without_positives::Tuple{Int,Int}
    zero::Tuple{Int,Int}
    distinct::Tuple{Union{Nothing,Int},Union{Nothing,Int}}
    held_back::Tuple{Int,Int}
    centred::Tuple{Bool,Bool}
    dropped::Int
    held_apart::Union{Nothing,Int}
    evaluations::Int
    seconds::NamedTuple
    workspace_bytes::Int
    peak_bytes::Int
end

function FitInfo(report::Ptr{Cvoid})
    real(key) = real_of(report, key)
    integer(key) = integer_of(report, key)
    chosen = (whiten = real(:whiten), power = real(:power), tau = real(:tau), r = integer(:r))
    returned = integer(:returned)
    parts = (:load, :features, :encode, :statistics, :weights, :spectral, :validation)
    seconds = NamedTuple{(:total, parts...)}((real(:seconds), map(part -> real(Symbol(:seconds_, part)), parts)...))
    return FitInfo(
        (:completed, :converged, :cancelled, :out_of_time)[integer(:outcome)+1],
        integer(:n_iters),
        series_of(report, :loss),
        series_of(report, :change),
        series_of(report, :singular_values),
        trace_of(report),
        returned === nothing ? nothing : returned + 1,
        real(:final_loss),
        real(:sampling_error),
        integer(:rejected_update) != 0,
        chosen,
        (integer(:rows_without_positives), integer(:cols_without_positives)),
        both(integer_of, report, :zero_rows),
        both(integer_of, report, :distinct),
        (integer(:rows_held_back), integer(:cols_held_back)),
        both(integer_of, report, :centred) .!= 0,
        integer(:rows_dropped),
        integer(:held_apart),
        integer(:evaluations),
        seconds,
        integer(:workspace_bytes),
        integer(:peak_bytes),
    )
end

function Base.show(io::IO, info::FitInfo)
    loss = info.final_loss === nothing ? (isempty(info.loss) ? nothing : info.loss[end]) : info.final_loss
    print(io, "UniCon.FitInfo(", info.outcome, ", r = ", info.chosen.r, ", ", info.n_iters, " steps")
    loss === nothing || print(io, ", loss ", round(loss; sigdigits = 4))
    return print(io, ", ", round(info.seconds.total; sigdigits = 3), " s)")
end
