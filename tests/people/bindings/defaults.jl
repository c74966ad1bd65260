# Prints the defaults of every struct that the package makes.

using UniCon

const chosen = (:struct_size, :factorization, :svd, :init, :center, :r, :dimension, :kind, :eps_by, :n_landmarks, :n_whiten, :n_powers, :n_widths, :n_stages,
                :ties, :exclude_self, :n_ks)

function show_fields(name, raw, only = nothing)
    for field in fieldnames(typeof(raw))
        (field in chosen || startswith(string(field), "reserved") || !(fieldtype(typeof(raw), field) <: Real)) && continue
        (only === nothing || field in only) && println(name, ".", field, " ", Float64(getfield(raw, field)))
    end
end

show_fields("fit", UniCon.fit_options(LinearUniCon(1)))
for preset in (:paper_linear, :paper_kernel, :paper_flickr, :paper_coco_clip, :paper_coco_resnet)
    show_fields(replace(string(preset), "_" => "-"), UniCon.fit_options(LinearUniCon(1; preset = preset)))
end
show_fields("best", UniCon.fit_options(BestUniCon()))
show_fields("loss", UniCon.Loss(:sigmoid).raw)
show_fields("kernel", UniCon.Kernel(:rbf).raw)
show_fields("damping", UniCon.Damping().raw)
show_fields("refine", UniCon.Refine().raw)
show_fields("minibatch", UniCon.Minibatch().raw)
evaluation = UniCon.EvaluationOptions_t()
UniCon.check(UniCon.c_evaluation_options_init(evaluation))
show_fields("evaluation", evaluation, (:resamples, :level, :seed))
