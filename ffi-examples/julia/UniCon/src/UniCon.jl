"""
Closed-form contrastive alignment of two sets of features, over the C ABI of libunicon.

**Samples are columns**, as everywhere in Julia: `X` is `d1 × n` and embeddings are `r × n`. The library reads dense
arrays, views with contiguous rows or columns, their adjoints and transposes where they lie; anything else (other views, ranges, integers,
sparse matrices) is copied first.

```julia
using UniCon
model, info = fit(LinearUniCon(128; whiten = 0.1), X, Y)
Zx, Zy = encode(model, :x, X), encode(model, :y, Y)
recall(Zx, Zy, [1, 5, 10])
```

The library is found as `libunicon` by the dynamic linker, or at `ENV["UNICON_LIBRARY"]`.
"""
module UniCon

import Libdl, Serialization
using LinearAlgebra: Adjoint, Transpose

export Context, Loss, Kernel, Damping, Refine, Minibatch, LinearUniCon, KernelUniCon, BestUniCon, Model, Weights, PartialFit, UniConError
export fit, encode, similarity, compress, encoder, bias, search, recall, gram, contrastive_grad, cancel, cancel_clear, save, load, linear_model, to_bytes, from_bytes
export Items, evaluate
export add!, current, finish!, value, unmatched, dense, apply, apply_transpose, cross_covariance, device_count

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

include("matrices.jl")
include("options.jl")
include("positives.jl")
include("context.jl")
include("models.jl")
include("reports.jl")
include("fit.jl")
include("weights.jl")
include("retrieval.jl")
include("evaluation.jl")

end # module
