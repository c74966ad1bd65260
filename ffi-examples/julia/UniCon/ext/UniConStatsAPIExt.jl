# With StatsAPI, which StatsBase and MLJ build on, its generic functions work on the solvers and models of this package.
module UniConStatsAPIExt

import StatsAPI
using UniCon

const Solver = Union{LinearUniCon,KernelUniCon,BestUniCon}

"""
    StatsAPI.fit(solver, X, Y; options...) -> (Model, FitInfo)

[`UniCon.fit`](@ref).
"""
StatsAPI.fit(solver::Solver, X, Y; options...) = UniCon.fit(solver, X, Y; options...)

"""
    StatsAPI.predict(model, X, Y; context = nothing)

Of every sample of `X` the number of the most similar sample of `Y`.
"""
function StatsAPI.predict(model::Model, X, Y; context::Union{Nothing,Context} = nothing)
    Zx, Zy = (encode(model, side, A; context = context) for (side, A) in ((:x, X), (:y, Y)))
    return vec(search(Zx, Zy, 1; context = context)[2])
end

end
