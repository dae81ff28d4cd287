// How often the kernels of an op have run. A CUDA graph replays kernels without the host's doing, so only the device
// can count them. The counter is local to the file that includes this: one an op, on each device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace docmill {
namespace {

__device__ unsigned long long num_calls;

// One atomic addition a launch; first in each kernel.
__device__ __forceinline__ void count_call() {
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) atomicAdd(&num_calls, 1ull);
}

// Of the current device, in the order of its default stream; not while a graph is captured.
cudaError_t read_calls(uint64_t* number) {
  const cudaError_t error = cudaMemcpyFromSymbol(number, num_calls, sizeof(num_calls));
  if (error != cudaSuccess) cudaGetLastError();  // or the next launch would be blamed for it
  return error;
}

}  // namespace
}  // namespace docmill
