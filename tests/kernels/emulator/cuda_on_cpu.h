// As much of CUDA as our kernels use, on a CPU: one block after the other, each of its threads a fiber that gives way
// where a GPU's thread would wait for others. It finds wrong indices, tails, reductions and barriers that not all
// threads reach; it knows nothing of races, of speed, or of what a GPU rounds otherwise.
//
// It comes before each source (-include), and emulated.py writes `kernel<<<grid, block, 0, stream>>>(args)` as
// `emulator::launch(grid, block, [&] { kernel(args); })`.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>
#include <ucontext.h>
#include <vector_functions.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <stdexcept>
#include <utility>
#include <vector>

#undef __shared__
#define __shared__ static  // one block at a time: all its fibers see the same
#undef __launch_bounds__
#define __launch_bounds__(...)
#define threadIdx emulator::current->index
#define blockIdx emulator::block_index
#define blockDim emulator::block_size

namespace emulator {

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 64 * 1024;

struct Barrier {
  unsigned waiting = 0, alive = 0, round = 0;
};

struct Thread {
  uint3 index;
  unsigned number;       // in the block
  unsigned exchanges;    // so far
  bool finished;
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStackBytes);
};

inline Thread* current;
inline uint3 block_index;
inline dim3 block_size;
inline Barrier of_block, of_warp[kWarp];
inline ucontext_t scheduler;
inline std::function<void()> kernel;
inline std::exception_ptr failure;
inline uint64_t steps;  // barriers passed and threads finished: without one, all wait for ever
inline uint64_t slots[2][kWarp * kWarp];

inline void wait(Barrier& barrier) {
  const unsigned round = barrier.round;
  ++barrier.waiting;
  while (barrier.round == round) {
    if (barrier.waiting == barrier.alive) {
      barrier.waiting = 0;
      ++barrier.round;
      ++steps;
    } else {
      swapcontext(&current->context, &scheduler);
    }
  }
}

// Each thread of the warp shows the others a value. Two sets of slots: nobody is more than one exchange ahead.
template <typename T>
const uint64_t* show(T value) {
  uint64_t* of_set = slots[current->exchanges++ % 2];
  std::memcpy(&of_set[current->number], &value, sizeof(T));
  wait(of_warp[current->number / kWarp]);
  return of_set + current->number / kWarp * kWarp;
}

template <typename T>
T read(const uint64_t& slot) {
  T value;
  std::memcpy(&value, &slot, sizeof(T));
  return value;
}

inline void run_thread() {
  try {
    kernel();
  } catch (...) {  // cannot leave its fiber
    failure = std::current_exception();
  }
  current->finished = true;
  --of_block.alive;
  --of_warp[current->number / kWarp].alive;
  ++steps;
  swapcontext(&current->context, &scheduler);
}

inline void run_block() {
  static std::vector<Thread> threads(kWarp * kWarp);
  of_block = {.alive = block_size.x};
  for (Barrier& barrier : of_warp) barrier = {.alive = kWarp};
  for (unsigned number = 0; number < block_size.x; ++number) {
    Thread& thread = threads[number];
    thread.index = {number, 0, 0};
    thread.number = number;
    thread.exchanges = 0;
    thread.finished = false;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = kStackBytes;
    makecontext(&thread.context, run_thread, 0);
  }
  while (of_block.alive > 0) {
    const uint64_t before = steps;
    for (unsigned number = 0; number < block_size.x; ++number) {
      current = &threads[number];
      if (!current->finished) swapcontext(&scheduler, &current->context);
    }
    if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
    if (steps == before) throw std::runtime_error("emulator: threads wait for others that never come");
  }
}

inline void launch(dim3 grid, dim3 block, std::function<void()> body) {
  if (grid.x == 0 || grid.y == 0 || block.x == 0 || block.x > kWarp * kWarp || block.x % kWarp != 0) {
    throw std::runtime_error("emulator: a GPU would not launch this, or not as whole warps");
  }
  kernel = std::move(body);
  block_size = block;
  for (block_index.y = 0; block_index.y < grid.y; ++block_index.y) {
    for (block_index.x = 0; block_index.x < grid.x; ++block_index.x) run_block();
  }
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::of_block); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int lanes) {
  const unsigned lane = emulator::current->number % emulator::kWarp;
  return emulator::read<T>(emulator::show(value)[lane ^ lanes]);
}

inline unsigned __reduce_max_sync(unsigned, unsigned value) {
  const uint64_t* shown = emulator::show(value);
  for (unsigned lane = 0; lane < emulator::kWarp; ++lane) value = std::max(value, emulator::read<unsigned>(shown[lane]));
  return value;
}

template <typename T>
T __ldg(const T* source) {
  if (reinterpret_cast<uintptr_t>(source) % sizeof(T) != 0) throw std::runtime_error("emulator: a load is not aligned");
  return *source;
}

inline unsigned long long atomicAdd(unsigned long long* sum, unsigned long long value) {
  return std::exchange(*sum, *sum + value);
}

template <typename T>
cudaError_t cudaMemcpyFromSymbol(void* target, const T& symbol, size_t num_bytes) {
  std::memcpy(target, &symbol, num_bytes);
  return cudaSuccess;
}

inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline int __float2int_rn(float value) { return std::isnan(value) ? 0 : static_cast<int>(std::nearbyint(value)); }
inline float __fdividef(float numerator, float denominator) { return numerator / denominator; }
inline float __expf(float value) { return std::exp(value); }

using std::isnan;
using std::max;
using std::min;
