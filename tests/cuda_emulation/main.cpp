// Runs every kernel on the host. Usage: emulation [FAULT]; with the number of a deliberate fault the run must fail.
#include "dense.cpp"
#include "rows.cpp"
#include "hopper.cpp"

int main(int argc, char** argv) {
    const int fault = argc > 1 ? atoi(argv[1]) : 0;
    if (fault < 0 || fault >= int(emu::Fault::kCount)) {
        fprintf(stderr, "no fault %d\n", fault);
        return 64;
    }
    emu::fault() = emu::Fault(fault);
    for (const bool order : {false, true}) {
        if (emu::fault() == emu::Fault::kEarlyLoad && !order) continue;  // shows only when copies happen at once
        backwards = order;
        rng().seed(7);
        // The faults of the Hopper kernels come last, and concern them only.
        if (emu::fault() < emu::Fault::kHopperEarlyRelease) {
            dense_suite();
            rows_suite();
        }
        hopper_suite();
    }
    printf("%d checks, %d failures\n", checks, failures);
    return failures ? 1 : 0;
}
