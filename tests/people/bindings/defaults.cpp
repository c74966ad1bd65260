// Prints the defaults of every struct that the header's classes make.
#include <cstdio>

#include "unicon.hpp"

#define SHOW(name, raw, field) std::printf(name "." #field " %.17g\n", static_cast<double>((raw).field));

static void fit(const char *name, const unicon_fit_options_t &o) {
    const auto show = [&](const char *field, double value) { std::printf("%s.%s %.17g\n", name, field, value); };
    show("n_iters", static_cast<double>(o.n_iters));
    show("rho", o.rho);
    show("power", o.power);
    show("ridge", o.ridge);
    show("scale_inputs", o.scale_inputs);
    show("tol", o.tol);
    show("batch_size", static_cast<double>(o.batch_size));
    show("n_batches", static_cast<double>(o.n_batches));
    show("drop_trailing", o.drop_trailing);
    show("whiten", o.whiten);
    show("kernel_ridge", o.kernel_ridge);
    show("cos_clamp", o.cos_clamp);
    show("batch_score", o.batch_score);
    show("n_negatives", static_cast<double>(o.n_negatives));
    show("growth", o.growth);
    show("exact_last", o.exact_last);
    show("seed", static_cast<double>(o.seed));
    show("budget", o.budget);
    show("final_loss", o.final_loss);
}

int main() {
    unicon::detail::Scratch scratch;
    fit("fit", unicon::FitOptions(1).get(scratch));
    fit("paper-linear", unicon::FitOptions(1).preset(UNICON_PRESET_PAPER_LINEAR).get(scratch));
    fit("paper-kernel", unicon::FitOptions(1).preset(UNICON_PRESET_PAPER_KERNEL).get(scratch));
    fit("paper-flickr", unicon::FitOptions(1).preset(UNICON_PRESET_PAPER_FLICKR).get(scratch));
    fit("paper-coco-clip", unicon::FitOptions(1).preset(UNICON_PRESET_PAPER_COCO_CLIP).get(scratch));
    fit("paper-coco-resnet", unicon::FitOptions(1).preset(UNICON_PRESET_PAPER_COCO_RESNET).get(scratch));
    const unicon_best_options_t b = unicon::BestOptions().get(scratch);
    SHOW("best", b, energy)
    SHOW("best", b, tau_auto)
    SHOW("best", b, kernel_ridge)
    SHOW("best", b, n_negatives)
    SHOW("best", b, exact)
    SHOW("best", b, final_loss)
    SHOW("best", b, budget)
    SHOW("best", b, seed)
    const unicon::Loss l(unicon::LossKind::sigmoid);
    SHOW("loss", l, tau)
    SHOW("loss", l, nu)
    SHOW("loss", l, margin)
    SHOW("loss", l, eps_pos)
    SHOW("loss", l, eps_neg)
    SHOW("loss", l, log_eps)
    const unicon::Kernel k(unicon::KernelKind::rbf);
    SHOW("kernel", k, beta)
    SHOW("kernel", k, gamma)
    SHOW("kernel", k, lengthscale)
    SHOW("kernel", k, cos_clamp)
    const unicon::Damping d;
    SHOW("damping", d, first)
    SHOW("damping", d, halvings)
    SHOW("damping", d, tol)
    const unicon::Refine r;
    SHOW("refine", r, max_steps)
    SHOW("refine", r, tol)
    SHOW("refine", r, memory)
    SHOW("refine", r, patience)
    SHOW("refine", r, first_step)
    const unicon::Minibatch m;
    SHOW("minibatch", m, batch)
    SHOW("minibatch", m, epochs)
    SHOW("minibatch", m, min_steps)
    SHOW("minibatch", m, max_steps)
    SHOW("minibatch", m, rate)
    SHOW("minibatch", m, momentum)
    SHOW("minibatch", m, patience)
    const unicon::EvaluationOptions e;
    if (e.ks != std::vector<int64_t>{1, 5, 10}) return 1;
    SHOW("evaluation", e, resamples)
    SHOW("evaluation", e, level)
    SHOW("evaluation", e, seed)
}
