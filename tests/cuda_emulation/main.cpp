// Runs every kernel on the host. Arguments, each of which may be missing: names of suites (dense, rows, hopper; all), an order
// of the threads (forwards, backwards; both), and `first` to end at the first failure.
#include "dense.cpp"
#include "rows.cpp"
#include "hopper.cpp"

#include <set>

int main(int argc, char** argv) {
    std::set<string> given(argv + 1, argv + argc);
    const auto chosen = [&](const char* one, std::initializer_list<const char*> others) {
        bool any = given.count(one) > 0;
        if (any) return true;
        for (const char* other : others) any |= given.count(other) > 0;
        return !any;
    };
    first_ends = given.count("first") > 0;
    for (const bool order : {false, true}) {
        if (!chosen(order ? "backwards" : "forwards", {order ? "forwards" : "backwards"})) continue;
        backwards = order;
        rng().seed(7);
        if (chosen("dense", {"rows", "hopper"})) dense_suite();
        if (chosen("rows", {"dense", "hopper"})) rows_suite();
        if (chosen("hopper", {"dense", "rows"})) hopper_suite();
    }
    printf("%d checks, %d failures\n", checks, failures);
    return failures ? 1 : 0;
}
