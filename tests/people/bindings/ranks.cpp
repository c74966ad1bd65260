// Evaluation and resident items from C++.
#include <cmath>
#include <cstdio>
#include <vector>

#include "unicon.hpp"

static int failed = 0;
#define CHECK(condition)                                                      \
    do {                                                                      \
        if (!(condition)) {                                                   \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            failed = 1;                                                       \
        }                                                                     \
    } while (0)

int main() {
    const unicon::Context context;
    // Four equal rows along each of three axes.
    std::vector<float> z(12 * 3, 0.0f);
    for (size_t i = 0; i < 12; i++) z[3 * i + i % 3] = 1;
    const auto all = unicon::view(z.data(), 12, 3);
    const auto expected = unicon::evaluate(context, all, all, {1, 4});
    CHECK(std::fabs(expected.recall[0] - 0.25) < 1e-12 && expected.recall[1] == 1);
    CHECK(expected.figures.tied_x2y == 12 && expected.figures.median_rank_x2y == 2.5);
    CHECK(expected.intervals.size() == 8 && expected.intervals[0] <= 0.25);
    unicon::EvaluationOptions options;
    options.ties = unicon::Ties::pessimistic;
    options.resamples = 0;
    CHECK(unicon::evaluate(context, all, all, {1}, unicon::Positives::diagonal(), options).recall[0] == 0);
    options.exclude_self = true;
    bool refused = false;
    try {
        unicon::evaluate(context, all, all, {1}, unicon::Positives::diagonal(), options);
    } catch (const unicon::Error &e) {
        refused = e.status() == UNICON_INVALID_ARGUMENT;
    }
    CHECK(refused);
    unicon::Items items(context, all);
    const unicon::Items moved = std::move(items);
    const auto found = moved.search(context, unicon::view(z.data() + 3 * 5, 1, 3), 4, 5);
    CHECK((found.indices == std::vector<int64_t>{2, 8, 11, 0}));
    CHECK(found.scores[0] == 1 && found.scores[3] == 0);
    if (!failed) std::puts("ok");
    return failed;
}
