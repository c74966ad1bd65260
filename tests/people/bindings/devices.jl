# A context of several CUDA devices, on the stand-in libraries, against one of one device.
using UniCon, Random

Random.seed!(1)
z = randn(4, 1100)
X, Y = (Float32.(randn(d, 4) * z + 0.3 * randn(d, 1100)) for d in (9, 7))
loss(; options...) = fit(LinearUniCon(4), X, Y; context = Context(; device = :cuda, precision = :float32, options...))[2].final_loss
one, several = loss(), loss(devices = [0, 2])
# fp32 sums cut elsewhere.
@assert isapprox(one, several; rtol = 1e-5) && several == loss(devices = [0, 2])
text = try
    Context(device = :cuda, devices = [1, 1])
    ""
catch e
    sprint(showerror, e)
end
@assert occursin("different devices' numbers", text) text
