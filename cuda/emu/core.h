// The block that runs, and how its threads meet: what device.cpp and hopper.cpp share.
#pragma once

#include <memory>
#include <vector>

#include "device.h"
#include "races.h"

namespace emu {

struct Copy {
    void* destination;
    const void* source;
    bool valid;
};

// A barrier: the last thread to come lets everyone go.
struct Meeting {
    int arrived = 0, round = 0;
    char keys[2] = {};  // this round's and the next one's
};

// What a lane shows the others in a collective.
enum class Collective { kNone, kLoad, kLoadTransposed, kMultiply, kShuffle, kBallot, kBarrier, kProduct, kProductOfRegisters, kCommit, kWait };
struct Deposit {
    Collective operation = Collective::kNone;
    uint32_t words[4] = {};
    float values[12] = {};
    uint64_t value = 0;
};

// What another file adds to a block (hopper.cpp). One for each block, made when first needed.
struct Extension {
    virtual ~Extension() = default;
    virtual bool advance() = 0;  // does a piece of asynchronous work, if there is any
    virtual void report() = 0;   // says on standard error who waits for what
    virtual void finish() = 0;   // fails if something was left undone
};

struct Block {
    int current = 0;  // the thread that runs
    bool progress = false, backwards = false;
    std::vector<unsigned char> shared;
    std::unique_ptr<Extension> extension;
    Meeting named[16];
    // Bulk copies in turn, so that they may overtake each other; products by warp, and a key for each group of them.
    races::Actor bulk_copies[8], products[16];
    char bulk_keys[8] = {}, product_keys[16][8] = {};
};
extern Block* block;

// Lets the other threads run.
void yield();
// Waits until as many threads have come as are expected. What they did before is then done for all of them where the
// barrier orders memory.
void meet(Meeting& meeting, int expected, bool orders_memory);
// All lanes of a warp deposit, meet, and read each other's deposits.
const Deposit* exchange(const Deposit& mine);

}  // namespace emu
