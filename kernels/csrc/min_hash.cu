// min_hash: MinHash signatures of token sequences.
//
// Grid: (sequences, hash functions / 128). A block: hashes a tile of 512 shingles of its sequence into shared memory,
// each thread every 128th; then each thread takes the minimum of its own hash function over the tile, two shingles
// (16 bytes) a read. All threads read the same address, a broadcast, so there are no bank conflicts.
// Bytes moved, a sequence of N int32 tokens: 4 N read (again for each further 128 hash functions), 8 a hash function
// written. Roofline: integer arithmetic, not memory: a 64-bit multiply, add and minimum are about 9 instructions a
// shingle and hash function, so 128 of them take some 1,150 instructions for each 4 bytes. Tokens are read one by
// one: a sequence begins wherever the one before it ends, and 16-byte reads would gain nothing.
#include <climits>

#include "calls.cuh"
#include "vec.cuh"

namespace docmill {
namespace {

constexpr int kThreads = 128;
constexpr int kTile = 512;
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15u;

// The finaliser of splitmix64 (Steele, Lea, Flood 2014): each bit of the result depends on each of the input.
__device__ __forceinline__ uint64_t mix(uint64_t bits) {
  bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
  return bits ^ bits >> 31;
}

template <typename Token>
__device__ __forceinline__ uint64_t shingle_hash(const Token* tokens, int64_t size) {
  uint64_t hash = kGolden;
  for (int64_t i = 0; i < size; ++i) {
    hash = (hash ^ static_cast<uint64_t>(static_cast<int64_t>(tokens[i]))) * 0xbf58476d1ce4e5b9u;
    hash ^= hash >> 32;
  }
  return mix(hash);
}

template <typename Token>
__global__ void __launch_bounds__(kThreads) min_hash_sequences(const MinHashArgs args) {
  count_call();
  alignas(16) __shared__ uint64_t shingles[kTile];
  const int64_t sequence = blockIdx.x;
  const int64_t function = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  // Offsets that do not rise, or lead out of the tokens, can give wrong signatures but no wrong address.
  const int64_t begin = max(int64_t{0}, min(args.offsets[sequence], args.num_tokens));
  const int64_t end = max(begin, min(args.offsets[sequence + 1], args.num_tokens));
  const int64_t size = min(args.shingle_size, end - begin);  // a sequence shorter than a shingle is one shingle
  const int64_t num_shingles = begin < end ? end - begin - size + 1 : 0;
  const Token* tokens = static_cast<const Token*>(args.token_ids) + begin;
  const uint64_t key = static_cast<uint64_t>(args.seed) + kGolden * (2 * static_cast<uint64_t>(function) + 1);
  const uint64_t factor = mix(key) | 1u;  // odd: the hash function is a permutation
  const uint64_t offset = mix(key + kGolden);

  int64_t smallest = LLONG_MAX;
  for (int64_t first = 0; first < num_shingles; first += kTile) {
    // Places after the last shingle repeat it, which changes no minimum: so they are read in pairs without a test.
    const int filled = static_cast<int>(min(int64_t{kTile}, num_shingles - first));
    for (int i = threadIdx.x; i < (filled + 1) / 2 * 2; i += kThreads) {
      shingles[i] = shingle_hash(tokens + first + min(i, filled - 1), size);
    }
    __syncthreads();
#pragma unroll 4
    for (int i = 0; i < filled; i += 2) {
      const ulonglong2 pair = *reinterpret_cast<const ulonglong2*>(&shingles[i]);
      smallest = min(smallest, static_cast<int64_t>(factor * pair.x + offset));
      smallest = min(smallest, static_cast<int64_t>(factor * pair.y + offset));
    }
    __syncthreads();
  }
  if (function < args.num_hashes) args.signatures[sequence * args.num_hashes + function] = smallest;
}

}  // namespace

cudaError_t launch(const MinHashArgs& args, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(args.num_sequences), static_cast<unsigned>(div_up(args.num_hashes, kThreads)));
  if (args.wide_tokens) {
    min_hash_sequences<int64_t><<<grid, kThreads, 0, stream>>>(args);
  } else {
    min_hash_sequences<int32_t><<<grid, kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

cudaError_t min_hash_calls(uint64_t* number) { return read_calls(number); }

}  // namespace docmill
