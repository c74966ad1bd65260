// Fits, searches and measures with unicon.hpp.
//
//     c++ -std=c++17 fit.cpp -o fit $(pkg-config --cflags --libs unicon)
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include <unicon.hpp>

int main() {
    const int64_t n = 500, d1 = 24, d2 = 16, latent = 6;
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> a(latent * d1), b(latent * d2), x(n * d1), y(n * d2), z(latent);
    for (auto &v : a) v = normal(random);
    for (auto &v : b) v = normal(random);
    for (int64_t i = 0; i < n; i++) {
        for (auto &v : z) v = normal(random);
        for (int64_t j = 0; j < d1; j++) {
            x[i * d1 + j] = 0.1f * normal(random);
            for (int64_t k = 0; k < latent; k++) x[i * d1 + j] += z[k] * a[k * d1 + j];
        }
        for (int64_t j = 0; j < d2; j++) {
            y[i * d2 + j] = 0.1f * normal(random);
            for (int64_t k = 0; k < latent; k++) y[i * d2 + j] += z[k] * b[k * d2 + j];
        }
    }
    try {
        unicon::Context context([](const std::string &text) { std::fprintf(stderr, "warning: %s\n", text.c_str()); });
        unicon::FitOptions options(latent);
        options.loss(unicon::Loss(unicon::LossKind::clip, 0.07));
        options->whiten = 0.01;
        const unicon::FitResult fitted = unicon::fit(context, options, unicon::view(x, d1), unicon::view(y, d2));
        std::printf("loss %.4f -> %.4f\n", fitted.info.loss.front(), *fitted.info.final_loss);

        std::vector<float> zx(n * latent), zy(n * latent);
        const auto ex = unicon::view(zx, latent), ey = unicon::view(zy, latent);
        fitted.model.encode(context, unicon::Side::x, unicon::view(x, d1), ex);
        fitted.model.encode(context, unicon::Side::y, unicon::view(y, d2), ey);
        const std::vector<double> recall = unicon::recall(context, ex, ey, {1, 5});
        std::printf("recall@1 %.3f, recall@5 %.3f\n", recall[0], recall[1]);
        const unicon::Neighbours near = unicon::search(context, ex, ey, 3);
        std::printf("the item nearest to query 7 is %lld\n", static_cast<long long>(near.indices[7 * 3]));
        if (recall[0] < 0.9) return 1;

        // What needs no tuning: shrinkage, power and here the dimension are chosen on rows that are held back.
        const unicon::FitResult best = unicon::fit_best(context, unicon::BestOptions(), unicon::view(x, d1), unicon::view(y, d2));
        std::printf("best: r %lld, whiten %g, power %g, %zu points\n", static_cast<long long>(best.info.r), best.info.whiten.value(),
                    best.info.power, best.info.trace.size());

        // Refinement by hand: on 64 sampled negatives a row first, then on all.
        unicon::FitOptions refined(latent);
        refined.stages({64, 0});
        refined->n_iters = 1;
        std::printf("refined: loss %.4f\n", unicon::fit(context, refined, unicon::view(x, d1), unicon::view(y, d2)).info.final_loss.value());

        // Batches that arrive one by one.
        unicon::FitOptions streamed(latent);
        streamed->whiten = 0.01;
        unicon::PartialFit partial(context, streamed, d1, d2);
        for (int64_t b = 0; b < 5; b++)
            partial.add(unicon::view(x.data() + b * 100 * d1, 100, d1), unicon::view(y.data() + b * 100 * d2, 100, d2));
        partial.finish().encode(context, unicon::Side::x, unicon::view(x, d1), ex);
    } catch (const unicon::Error &e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 1;
    }
    try { // A failure is an exception that carries status and text.
        unicon::Context context;
        unicon::fit(context, unicon::FitOptions(1000), unicon::view(x, d1), unicon::view(y, d2));
        return 1;
    } catch (const unicon::Error &e) {
        std::printf("as expected: %s\n", e.what());
        return e.status() == UNICON_ERROR_INVALID_ARGUMENT ? 0 : 1;
    }
}
