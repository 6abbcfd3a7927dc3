// A GPU that is not there: what a model would take on one can be counted, and even run, on any machine.
#pragma once

#include "ggml-backend.h"

namespace mqn {

// The name under which options ask for it.
constexpr const char* planned_device_name = "planned";

// A device with memory of its own, to which llama.cpp offloads layers as to any other. Tensors are aligned
// and padded as CUDA does it, large batches of host weights are offloaded as CUDA does it, and computing is
// left to the CPU backend, whose memory it borrows. It is in no registry: only who asks for it sees it.
ggml_backend_dev_t planned_device();

}  // namespace mqn
