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
    unicon::EvaluationOptions two;
    two.ks = {1, 4};
    const auto expected = unicon::evaluate(context, all, all, two);
    CHECK(std::fabs(expected.x2y.recall[0] - 0.25) < 1e-12 && expected.x2y.recall[1] == 1);
    CHECK(expected.x2y.tied == 12 && expected.x2y.median_rank == 2.5 && expected.y2x.mean_rank == 2.5);
    CHECK(expected.x2y.intervals.size() == 2 && expected.x2y.intervals[0].low <= 0.25 && expected.y2x.intervals[0].high >= 0.25);
    unicon::EvaluationOptions options;
    options.ties = unicon::Ties::pessimistic;
    options.resamples = 0;
    options.ks = {1};
    const auto worst = unicon::evaluate(context, all, all, options);
    CHECK(worst.y2x.recall == std::vector<double>{0} && worst.y2x.intervals.empty() && !worst.x2y.mrr_interval);
    // Recall alone has the same rules for ties; ranks of queries without a match are not there.
    CHECK(unicon::recall(context, all, all, {1}, unicon::Positives::diagonal(), unicon::Ties::pessimistic)[0] == 0);
    CHECK(unicon::recall(context, all, all, {1}, unicon::Positives::diagonal(), unicon::Ties::optimistic)[0] == 1);
    CHECK(std::fabs(unicon::recall(context, all, all, {1})[0] - 0.25) < 1e-12);
    options.exclude_self = true;
    bool refused = false;
    try {
        unicon::evaluate(context, all, all, options);
    } catch (const unicon::Error &e) {
        refused = e.status() == UNICON_ERROR_INVALID_ARGUMENT;
    }
    CHECK(refused);
    unicon::Items items(context, all);
    const unicon::Items moved = std::move(items);
    const auto found = moved.search(context, unicon::view(z.data() + 3 * 5, 1, 3), 4, 5);
    CHECK((found.indices == std::vector<int64_t>{2, 8, 11, 0}));
    CHECK(found.scores[0] == 1 && found.scores[3] == 0);
    // No queries, no results.
    CHECK(moved.search(context, unicon::view(z.data(), 0, 3), 4).indices.empty());
    CHECK(unicon::search(context, unicon::view(z.data(), 0, 3), all, 4).scores.empty());
    if (!failed) std::puts("ok");
    return failed;
}
