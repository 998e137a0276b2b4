// What lives where, and how fast that can be. Pure arithmetic over the extents of all
// loaded models and one budget: no weights, no device, no clock.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/storage/model_file.h"

namespace qianyi {

struct MemoryBudget {
  uint64_t host_bytes = 0;     // everything the process takes in RAM
  uint64_t device_bytes = 0;   // everything it takes on the accelerator; 0 = CPU only
  uint64_t process_bytes = 0;  // of host_bytes, what the program itself needs
  uint64_t library_bytes = 0;  // of device_bytes, what libraries need for each model
};

// How a model is to be used.
struct ModelUse {
  const ModelFile* file = nullptr;
  int64_t context_tokens = 2048;  // of one sequence, prompt and output together
  int64_t batch = 1;              // sequences at once
  int64_t prompt_tokens = 512;    // of prompts in one step
  int64_t logit_rows = 0;         // rows of logits in one step; 0 = batch
  int64_t branches = 0;           // of them, beside what sequences and their guesses want
  DType kv_dtype = DType::kF16;
  uint64_t adapter_bytes = 0;  // for all adapters that are loaded at one time; 0 = none ever
  uint64_t picture_bytes = 0;  // of the VQ-VAE that belongs to a picture model
  int64_t sparse_slots = 0;    // in the lists of a sparse step (step.h), of all layers together
  double host_rows = 0;        // with a device: of the rows in RAM, the share that the CPU computes
};

// Through which weights pass that are not resident on a device: at least two of their blocks.
inline constexpr uint64_t kDeviceRingBytes = 64 << 20;

// kHostRows: in RAM, and computed there while the device computes the others.
enum class Tier : uint8_t { kDevice, kHost, kHostRows, kDisk };

struct ModelPlan {
  ModelUse use;
  std::vector<std::vector<Tier>> tiers;  // [tensor][block]; constants are always resident
  uint64_t constant_bytes = 0;
  uint64_t kv_bytes = 0;
  int kv_mapped_layers = 0;      // with a device: layers whose keys and values are in RAM
  uint64_t adapter_bytes = 0;    // those of the use, and what their layout may waste
  uint64_t workspace_bytes = 0;  // activations, scratch and logits of one step
  uint64_t staging_bytes = 0;    // with a device: of RAM, from and to which steps are copied
  uint64_t ring_bytes = 0;       // of the cyclic prefetch; 0 when nothing streams
  uint64_t gather_bytes = 0;     // cache of embedding blocks that are not resident
  // Of kv_bytes, what weights that else stream may use while few sequences run.
  uint64_t lendable_bytes = 0;
  uint64_t weight_bytes = 0;  // read by every step: all matrices but experts, tied tables once
  uint64_t device_bytes = 0;  // of weight_bytes, by tier
  uint64_t host_bytes = 0;
  uint64_t host_rows_bytes = 0;  // of host_bytes, what the CPU computes beside a device
  uint64_t disk_bytes = 0;
  uint64_t embedding_bytes = 0;  // gathered tables, of which this much is resident
  uint64_t embedding_resident_bytes = 0;
  uint64_t expert_bytes = 0;        // all experts
  uint64_t expert_cache_bytes = 0;  // in RAM: room for experts that stay; all of them when they fit
  // Experts on the device, whole layers of them, and of workspace_bytes what these need.
  int64_t device_experts = 0;
  uint64_t device_expert_bytes = 0;
  uint64_t device_expert_workspace_bytes = 0;
  // Of experts in one step when every expert is as likely as the others: used, of these on the
  // device, and not in memory.
  double expert_step_bytes = 0;
  double device_expert_step_bytes = 0;
  double expert_disk_bytes = 0;
  double matrix_elements = 0;  // multiply-adds of one token
  uint64_t kv_read_bytes = 0;  // of one step at full context

  // Of `bytes` that all layers have alike, the part of those whose cache is in RAM.
  uint64_t MappedPart(uint64_t bytes) const;
};

struct Plan {
  MemoryBudget budget;
  std::vector<ModelPlan> models;

  uint64_t host_used_bytes() const;
  uint64_t device_used_bytes() const;
};

// Chooses an evenly spaced resident set (a cyclic scan defeats LRU; evenly spaced, so that
// reading and computing alternate) and streams the rest. Experts get what the matrices of every
// step leave: those save more bytes for each byte of memory. With a device, as few layers of
// the caches of keys and values are in RAM as must be. ResourceExhausted, with the smallest budget
// that would do and what to lower, when it cannot fit.
absl::StatusOr<Plan> MakePlan(std::span<const ModelUse> models, const MemoryBudget& budget);

// The longest step a use needs: room for prompts (a whole context when contexts are atomic)
// and one token of every sequence.
int64_t StepTokens(const ModelUse& use);
int64_t LogitRows(const ModelUse& use);
// Pages of all sequences: a prefix may begin the page in which a sequence goes on.
int64_t KvPages(const ModelUse& use);

// Sustained rates of a machine: bytes/s, and integer or float operations/s (2 per
// multiply-add). 0 = absent.
struct Rates {
  double device_bandwidth = 0;
  double host_bandwidth = 0;
  double link = 0;       // host to device
  double link_back = 0;  // device to host: results, which bound nothing
  double disk = 0;
  double compute = 0;
};

// The limits of one decoding step of `batch` tokens, in seconds each.
struct Bound {
  double device_memory = 0;
  double host_memory = 0;
  double host_to_device = 0;
  double disk = 0;
  double compute = 0;
  uint64_t resident_bytes = 0;  // weights that stay where they are computed
  uint64_t streamed_bytes = 0;  // weights that are moved every step

  std::string_view link() const;  // the name of the largest
  double step_seconds() const;
};
// With a device and `cpu_rows`, weights in RAM are computed by the CPU where that is faster
// than moving them: the share that makes both finish together. Without, as the plan has it.
Bound EstimateBound(const Plan& plan, const Rates& rates, bool cpu_rows);

}  // namespace qianyi
