// Placements and contexts as Python passes them. Comes after binding.hpp.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "memory.hpp"

namespace mqn {

// n_ctx, n_seq, n_ubatch, type_k, type_v
using ContextNumbers = std::tuple<uint32_t, uint32_t, uint32_t, int, int>;

PlacementOptions placement_of(const std::vector<std::string>& paths, int n_gpu_layers,
                              const std::vector<std::string>& devices, const std::vector<std::string>& on_cpu,
                              bool extra_buffers);
// Throws unsupported_type for a type that ggml does not know.
ContextOptions context_of(const ContextNumbers& numbers);

}  // namespace mqn
