// Operands as the Hopper kernels want them in shared memory: tiles of 64 x 64 16-bit elements, rows of 128 bytes whose
// 16-byte pieces are swizzled, each tile without a gap, so that one bulk copy moves it. O(n r) bytes, once for each pass.
#include "ptx.cuh"

namespace {

constexpr int kTilePieces = 64 * 8;

// The piece that piece `index` of a tile holds: its row, and which eight elements along the row.
__device__ __forceinline__ int piece_row(int index) { return index >> 3; }
__device__ __forceinline__ int piece_part(int index) {
    return (index & 7) ^ (piece_row(index) & 7);
}

}  // namespace

// Embeddings: tiles of 64 rows, and in each chunk by chunk of the depth: the values, then with halves = 2 the remainders
// (params.cuh). Rows at or beyond `rows` and elements beyond the depth are zeros. One thread for each piece.
UNICON_KERNEL void hopper_pack_rows(const uint16_t* source, int64_t ld, int32_t depth, int32_t halves, int64_t rows,
                                    int64_t tiles, uint16_t* out) {
    const int64_t piece = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const int depth_chunks = (depth + 63) / 64, chunks = depth_chunks * halves;
    if (piece >= tiles * chunks * kTilePieces) return;
    const int64_t tile = piece / (chunks * kTilePieces);
    const int index = int(piece % kTilePieces), chunk = int(piece / kTilePieces % chunks);
    const int half = chunk / depth_chunks, column = (chunk - half * depth_chunks) * 64 + piece_part(index) * 8;
    const int64_t row = tile * 64 + piece_row(index);
    uint4 value = make_uint4(0, 0, 0, 0);
    if (row < rows && column < depth) value = *reinterpret_cast<const uint4*>(source + row * ld + half * depth + column);
    reinterpret_cast<uint4*>(out)[piece] = value;
}

// Values, transposed: the columns of the sweep run along a tile's rows. Tile k is [padded][64 columns]; row i of the source
// is column i + skip of the first tile on. What is not covered is zero. One thread for each piece.
UNICON_KERNEL void hopper_pack_values(const uint16_t* source, int64_t ld, int32_t width, int64_t rows, int32_t padded,
                                      int32_t skip, int64_t tiles, uint16_t* out) {
    // Neighbouring threads read neighbouring elements of a row of the source: 32 columns of V at the same eight rows.
    const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (thread >= tiles * padded * 8) return;
    const int64_t tile = thread / (padded * 8);
    const int within = int(thread % (padded * 8)), part = within / padded, d = within % padded;
    uint32_t words[4];
    for (int w = 0; w < 4; ++w) {
        uint32_t pair[2];
        for (int e = 0; e < 2; ++e) {
            const int64_t row = tile * 64 + part * 8 + w * 2 + e - skip;
            pair[e] = row >= 0 && row < rows && d < width ? source[row * ld + d] : 0u;
        }
        words[w] = pair[0] | pair[1] << 16;
    }
    const int64_t piece = tile * padded * 8 + d * 8 + (part ^ (d & 7));
    reinterpret_cast<uint4*>(out)[piece] = make_uint4(words[0], words[1], words[2], words[3]);
}
