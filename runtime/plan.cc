#include "runtime/plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/kv_cache.h"
#include "runtime/memory_size.h"
#include "runtime/pass.h"
#include "runtime/storage/padded.h"

namespace qianyi {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kWantedRingBytes = 64 * kMiB;
constexpr uint64_t kWantedGatherBytes = 8 * kMiB;
// Context, modules and work space of a device driver, by experience.
constexpr uint64_t kDeviceOverheadBytes = 600 * kMiB;

// What no machine has: sums of such amounts stay far from overflow.
constexpr double kMostBytes = 1152921504606846976.0;  // 2^60

uint64_t Product(uint64_t count, uint64_t bytes) {
  return static_cast<uint64_t>(std::min(kMostBytes, 1.0 * count * bytes));
}

bool Streams(const TensorSpec& spec) {
  if (spec.kept) return false;
  return spec.use == TensorUse::kMatrix || (spec.use == TensorUse::kEmbedding && spec.tied);
}

bool Gathered(const TensorSpec& spec) {
  return spec.use == TensorUse::kEmbedding && !spec.tied && !spec.kept;
}

struct Extent {
  uint64_t bytes = 0;
  uint64_t largest = 0;

  void Add(uint64_t block_bytes) {
    bytes += Padded(block_bytes);
    largest = std::max(largest, Padded(block_bytes));
  }
};

// What a model needs whatever is resident, and the extents of what may be.
struct Needs {
  ModelPlan plan;
  Extent streamed;
  Extent gathered;    // by rows only
  Extent embeddings;  // gathered from, tied tables included
  uint64_t largest_expert = 0;
};

// Experts by number: their bytes, and what a step of `batch` tokens uses of them.
void AddExperts(const ModelFile& file, int64_t batch, Needs* needs) {
  const ExpertSpec& experts = file.spec.experts;
  if (experts.total == 0) return;
  const double share = 1.0 * experts.per_token / experts.per_layer;
  std::vector<uint64_t> bytes(experts.total, 0);
  for (const StoredTensor& tensor : file.tensors) {
    if (tensor.spec.use != TensorUse::kExpert || tensor.spec.kept) continue;
    for (const Block& block : tensor.blocks) bytes[tensor.spec.expert] += Padded(block.bytes);
    needs->plan.matrix_elements += share * tensor.spec.rows() * tensor.spec.cols();
  }
  needs->largest_expert = *std::max_element(bytes.begin(), bytes.end());
  for (const uint64_t expert : bytes) needs->plan.expert_bytes += expert;
  needs->plan.expert_step_bytes =
      needs->plan.expert_bytes * (1 - std::pow(1 - share, static_cast<double>(batch)));
}

// One expert is computed while the next is read.
uint64_t LeastExpertCache(const Needs& needs) {
  return std::min<uint64_t>(2, needs.plan.use.file->spec.experts.total) * needs.largest_expert;
}
// All experts that are not on a device, in places of equal size.
uint64_t MostExpertCache(const Needs& needs) {
  const int64_t total = needs.plan.use.file->spec.experts.total;
  return std::max(LeastExpertCache(needs),
                  (total - needs.plan.device_experts) * needs.largest_expert);
}

Needs NeedsOf(const ModelUse& use, bool device) {
  Needs needs;
  ModelPlan& plan = needs.plan;
  const ModelFile& file = *use.file;
  plan.use = use;
  for (const StoredTensor& tensor : file.tensors) {
    plan.tiers.emplace_back(tensor.blocks.size(), Tier::kDisk);
    if (tensor.spec.kept || tensor.spec.use == TensorUse::kExpert) continue;
    if (tensor.spec.use == TensorUse::kConstant) {
      plan.constant_bytes += tensor.bytes();
      continue;
    }
    const bool streams = Streams(tensor.spec);
    for (const Block& block : tensor.blocks) {
      if (tensor.spec.use == TensorUse::kEmbedding) needs.embeddings.Add(block.bytes);
      (streams ? needs.streamed : needs.gathered).Add(block.bytes);
    }
    if (streams) plan.matrix_elements += 1.0 * tensor.spec.rows() * tensor.spec.cols();
  }
  AddExperts(file, use.batch, &needs);
  plan.weight_bytes = needs.streamed.bytes;
  plan.embedding_bytes = needs.gathered.bytes;
  // Few pages of prefixes can take two huge pages in every layer, beside LoRA's memory.
  plan.adapter_bytes =
      use.adapter_bytes + std::min<uint64_t>(use.adapter_bytes, file.spec.kv.layers * 4 * kMiB);
  plan.kv_bytes = Product(KvPages(use), KvCache::PageBytes(file.spec.kv, use.kv_dtype));
  plan.kv_read_bytes = Product(use.context_tokens * use.batch,
                               KvCache::PageBytes(file.spec.kv, use.kv_dtype) / kPageTokens);
  plan.workspace_bytes =
      Pass::MemoryBytes(file.spec, Pass::LimitsOf(use, device)) + use.picture_bytes;
  if (device) plan.staging_bytes = Pass::StagingBytes(file.spec, Pass::LimitsOf(use, device));
  return needs;
}

// One block is computed while the next is read; a model that fits in less needs less.
uint64_t LeastRing(const Needs& needs) {
  return std::min(2 * needs.streamed.largest, needs.streamed.bytes);
}

// Marks blocks of the streamed tensors with `tier` until `room` is used: error diffusion keeps
// the marked ones evenly spaced among those still on disk. Returns the bytes taken.
uint64_t SpreadEvenly(const ModelFile& file, bool streamed, Tier tier, uint64_t room,
                      std::vector<std::vector<Tier>>* tiers) {
  uint64_t total = 0;
  auto each = [&](auto&& visit) {
    for (size_t t = 0; t < file.tensors.size(); ++t) {
      const StoredTensor& tensor = file.tensors[t];
      if (streamed ? !Streams(tensor.spec) : !Gathered(tensor.spec)) continue;
      for (size_t b = 0; b < tensor.blocks.size(); ++b) {
        if ((*tiers)[t][b] == Tier::kDisk) visit((*tiers)[t][b], Padded(tensor.blocks[b].bytes));
      }
    }
  };
  each([&](Tier&, uint64_t bytes) { total += bytes; });
  if (total == 0) return 0;
  const double share = std::min(1.0, 1.0 * room / total);
  double owed = 0;
  uint64_t used = 0;
  each([&](Tier& at, uint64_t bytes) {
    owed += share * bytes;
    if ((owed >= bytes * 0.5 || share == 1.0) && used + bytes <= room) {
      at = tier;
      used += bytes;
      owed -= bytes;
    }
  });
  return used;
}

// Whether the CPU may compute some of a matrix's rows beside a device: not of the head, whose
// output is far wider than that of all others, nor of what is multiplied head by head.
bool MayBeHostRows(const ModelFile& file, const TensorSpec& spec) {
  return Streams(spec) && spec.slice.heads == 0 && spec.rows() <= Pass::WidestRow(file.spec);
}

// Marks `share` of what is in RAM of every matrix, evenly, as computed there.
void GiveRowsToHost(double share, ModelPlan* plan) {
  const ModelFile& file = *plan->use.file;
  for (size_t t = 0; t < file.tensors.size(); ++t) {
    if (!MayBeHostRows(file, file.tensors[t].spec)) continue;
    double owed = 0;
    for (size_t b = 0; b < plan->tiers[t].size(); ++b) {
      const uint64_t bytes = Padded(file.tensors[t].blocks[b].bytes);
      if (plan->tiers[t][b] != Tier::kHost) continue;
      owed += share * bytes;
      if (owed < 0.5 * bytes) continue;
      owed -= bytes;
      plan->tiers[t][b] = Tier::kHostRows;
      plan->host_rows_bytes += bytes;
    }
  }
}

// With what this process itself takes varying by some pages, the amount that is named must do.
absl::Status CannotFit(const ModelUse& use, std::string_view what, uint64_t needed, uint64_t budget,
                       std::string_view flag) {
  return absl::ResourceExhaustedError(absl::StrFormat(
      "%s does not fit: context %d x batch %d needs at least %s %s, but %s is %s; raise %s, or "
      "lower --context or --batch",
      use.file->folder.empty() ? "the model" : use.file->folder, use.context_tokens, use.batch,
      FormatSize((needed + 2 * kMiB - 1) / kMiB * kMiB), what, flag, FormatSize(budget), flag));
}

// Moves layers of caches to RAM, of the largest one first, while the device must hold more than its
// budget. No more than that: a prompt reads keys and values many times over, weights once.
void SpillCaches(uint64_t device_budget, std::vector<Needs>* needs, uint64_t* device_bytes,
                 uint64_t* host_bytes) {
  const auto layer_bytes = [](const ModelPlan& plan) {
    const int layers = plan.use.file->spec.kv.layers;
    return plan.kv_mapped_layers < layers ? plan.kv_bytes / layers : 0;
  };
  while (*device_bytes > device_budget) {
    ModelPlan& plan = std::max_element(needs->begin(), needs->end(), [&](auto& a, auto& b) {
                        return layer_bytes(a.plan) < layer_bytes(b.plan);
                      })->plan;
    const uint64_t bytes = layer_bytes(plan);
    if (bytes == 0) return;
    ++plan.kv_mapped_layers;
    *device_bytes -= bytes;
    // The pages of prefixes, which adapters have, lie beside them.
    *host_bytes += bytes + plan.use.adapter_bytes / plan.use.file->spec.kv.layers;
  }
}

// Divides `room` bytes of RAM that are left for weights of one model. Matrices that every step
// reads come before experts, which a step reads some of, and these before rows of embeddings.
void PlaceOnHost(const Needs& needs, uint64_t room, bool device, ModelPlan* plan) {
  const ModelFile& file = *plan->use.file;
  const uint64_t rest = plan->weight_bytes - plan->device_bytes;
  plan->expert_cache_bytes = LeastExpertCache(needs);
  room -= plan->expert_cache_bytes;
  if (rest <= room) {
    plan->host_bytes = SpreadEvenly(file, true, Tier::kHost, rest, &plan->tiers);
    room -= rest;
    const uint64_t more = std::min(room, MostExpertCache(needs) - plan->expert_cache_bytes);
    plan->expert_cache_bytes += more;
    plan->embedding_resident_bytes =
        SpreadEvenly(file, false, Tier::kHost, room - more, &plan->tiers);
  } else {
    plan->ring_bytes = std::max(LeastRing(needs), std::min(kWantedRingBytes, room / 4));
    plan->host_bytes = SpreadEvenly(file, true, Tier::kHost, room - plan->ring_bytes, &plan->tiers);
  }
  plan->disk_bytes = rest - plan->host_bytes;
  if (device && plan->use.host_rows > 0) GiveRowsToHost(plan->use.host_rows, plan);
  if (!device) plan->lendable_bytes = std::min(plan->kv_bytes, plan->disk_bytes);
  if (plan->expert_bytes > 0) {
    const double cached = 1.0 * plan->expert_cache_bytes / MostExpertCache(needs);
    plan->expert_disk_bytes =
        (plan->expert_step_bytes - plan->device_expert_step_bytes) * (1 - cached);
  }
}

// The expert tensors of a unit, in order; empty where their experts are not alike, or are so large
// that a kernel would not find their panels side by side.
std::vector<int> ExpertsAlike(const ModelFile& file, int unit) {
  std::vector<int> found;
  for (size_t t = 0; t < file.tensors.size(); ++t) {
    const TensorSpec& spec = file.tensors[t].spec;
    if (spec.unit == unit && spec.use == TensorUse::kExpert && !spec.kept) {
      found.push_back(static_cast<int>(t));
    }
  }
  const auto at = [&](size_t i) -> const StoredTensor& { return file.tensors[found[i]]; };
  size_t matrices = 0;  // of one expert
  while (matrices < found.size() && at(matrices).spec.expert == at(0).spec.expert) ++matrices;
  for (size_t i = 0; i < found.size(); ++i) {
    const StoredTensor& tensor = at(i);
    const StoredTensor& first = at(i % matrices);
    if (found[i] != found[0] + static_cast<int>(i) || tensor.spec.shape != first.spec.shape ||
        tensor.format != first.format) {
      return {};
    }
    for (size_t b = 0; b + 1 < tensor.blocks.size(); ++b) {
      if (tensor.blocks[b].rows % kPanelRows != 0) return {};
    }
  }
  return found;
}

// Where a device has all matrices, the experts of as many layers as `room` bytes hold beside what
// computing them takes. Takes from `room`.
void PlaceExpertsOnDevice(uint64_t* room, ModelPlan* plan) {
  const ModelFile& file = *plan->use.file;
  if (plan->expert_bytes == 0 || plan->device_bytes < plan->weight_bytes) return;
  Pass::Limits limits = Pass::LimitsOf(plan->use, /*device=*/true);
  const uint64_t without = Pass::MemoryBytes(file.spec, limits);
  limits.device_experts = true;
  const uint64_t workspace =
      Pass::MemoryBytes(file.spec, limits) - without + Padded(file.tensors.size() * sizeof(void*));
  if (workspace > *room) return;
  uint64_t left = *room - workspace;
  for (int unit = 0; unit < static_cast<int>(file.spec.units.size()); ++unit) {
    const std::vector<int> tensors = ExpertsAlike(file, unit);
    uint64_t bytes = 0;
    for (const int t : tensors) {
      for (const Block& block : file.tensors[t].blocks) bytes += Padded(block.bytes);
    }
    if (tensors.empty() || bytes > left) continue;
    for (const int t : tensors) plan->tiers[t].assign(plan->tiers[t].size(), Tier::kDevice);
    left -= bytes;
    plan->device_expert_bytes += bytes;
    plan->device_experts +=
        file.tensors[tensors.back()].spec.expert - file.tensors[tensors[0]].spec.expert + 1;
  }
  if (plan->device_experts == 0) return;
  *room = left;
  plan->device_expert_workspace_bytes = workspace;
  plan->workspace_bytes += workspace;
  plan->device_expert_step_bytes =
      plan->expert_step_bytes * plan->device_expert_bytes / plan->expert_bytes;
}

// Divides `room` bytes of RAM among models: nobody gets more than it can use in every step before
// the others have as much or all they can use. So a small model stays in memory beside a large one
// that streams, and computes while that one waits.
std::vector<uint64_t> HostShares(std::span<const Needs> needs, uint64_t room) {
  const auto wanted = [&](size_t i) {
    const ModelPlan& plan = needs[i].plan;
    return plan.weight_bytes - plan.device_bytes + MostExpertCache(needs[i]) -
           LeastExpertCache(needs[i]);
  };
  std::vector<size_t> order(needs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return wanted(a) < wanted(b); });
  std::vector<uint64_t> shares(needs.size());
  for (size_t i = 0; i < order.size(); ++i) {
    shares[order[i]] = std::min(wanted(order[i]), room / (order.size() - i));
    room -= shares[order[i]];
  }
  for (uint64_t& share : shares) share += room / shares.size();  // for rows of embeddings
  return shares;
}

}  // namespace

uint64_t ModelPlan::MappedPart(uint64_t bytes) const {
  const int layers = use.file->spec.kv.layers;
  return layers == 0 ? 0 : bytes / layers * kv_mapped_layers;
}

int64_t StepTokens(const ModelUse& use) {
  const int64_t prompts = use.file->spec.bidirectional
                              ? std::max(use.prompt_tokens, use.context_tokens)
                              : std::min(use.prompt_tokens, use.context_tokens * use.batch);
  return prompts + use.batch;
}

int64_t LogitRows(const ModelUse& use) { return use.logit_rows > 0 ? use.logit_rows : use.batch; }

int64_t KvPages(const ModelUse& use) {
  const int64_t begun = use.adapter_bytes > 0 ? kPageTokens - 1 : 0;
  return KvCache::PagesFor(use.context_tokens + begun) * use.batch;
}

uint64_t Plan::host_used_bytes() const {
  uint64_t bytes = budget.process_bytes;
  for (const ModelPlan& model : models) {
    bytes += model.constant_bytes + model.ring_bytes + model.gather_bytes + model.host_bytes +
             model.expert_cache_bytes + model.embedding_resident_bytes + model.staging_bytes +
             model.MappedPart(model.kv_bytes + model.use.adapter_bytes);
    if (budget.device_bytes == 0) {
      bytes += model.kv_bytes + model.workspace_bytes + model.adapter_bytes;
    }
  }
  return bytes;
}

uint64_t Plan::device_used_bytes() const {
  if (budget.device_bytes == 0) return 0;
  uint64_t bytes = kDeviceOverheadBytes;
  for (const ModelPlan& model : models) {
    bytes += model.device_bytes + model.device_expert_bytes + model.kv_bytes -
             model.MappedPart(model.kv_bytes) + model.workspace_bytes + model.adapter_bytes +
             model.constant_bytes + budget.library_bytes +
             (model.device_bytes < model.weight_bytes ? kDeviceRingBytes : 0);
  }
  return bytes;
}

absl::StatusOr<Plan> MakePlan(std::span<const ModelUse> models, const MemoryBudget& budget) {
  Plan plan;
  plan.budget = budget;
  std::vector<Needs> needs;
  const bool device = budget.device_bytes > 0;
  for (const ModelUse& use : models) needs.push_back(NeedsOf(use, device));
  uint64_t fixed_host = budget.process_bytes;
  uint64_t least_host = 0;
  uint64_t fixed_device = device ? kDeviceOverheadBytes : 0;
  double total_weights = 0;
  for (Needs& model : needs) {
    ModelPlan& it = model.plan;
    it.gather_bytes = std::min(model.embeddings.bytes,
                               std::max(kWantedGatherBytes, 2 * model.embeddings.largest));
    fixed_host += it.constant_bytes + it.gather_bytes + it.staging_bytes;
    least_host += LeastRing(model) + LeastExpertCache(model);
    (device ? fixed_device : fixed_host) += it.kv_bytes + it.workspace_bytes + it.adapter_bytes;
    if (device) fixed_device += it.constant_bytes + budget.library_bytes + kDeviceRingBytes;
    total_weights += it.weight_bytes;
  }
  if (device) SpillCaches(budget.device_bytes, &needs, &fixed_device, &fixed_host);
  if (fixed_host + least_host > budget.host_bytes) {
    return CannotFit(models[0], "of RAM", fixed_host + least_host, budget.host_bytes,
                     "--host-memory");
  }
  if (fixed_device > budget.device_bytes) {
    return CannotFit(models[0], "on the device", fixed_device, budget.device_bytes,
                     "--device-memory");
  }
  const uint64_t host_room = budget.host_bytes - fixed_host - least_host;
  const uint64_t device_room = budget.device_bytes - fixed_device;
  uint64_t device_left = device_room;
  for (Needs& model : needs) {
    ModelPlan& it = model.plan;
    const double share = total_weights > 0 ? it.weight_bytes / total_weights : 0;
    if (!device) break;
    it.device_bytes = SpreadEvenly(*it.use.file, true, Tier::kDevice,
                                   static_cast<uint64_t>(device_room * share), &it.tiers);
    device_left -= it.device_bytes;
  }
  if (device) {
    for (Needs& model : needs) PlaceExpertsOnDevice(&device_left, &model.plan);
  }
  const std::vector<uint64_t> shares = HostShares(needs, host_room);
  for (size_t i = 0; i < needs.size(); ++i) {
    Needs& model = needs[i];
    PlaceOnHost(model, LeastRing(model) + LeastExpertCache(model) + shares[i], device, &model.plan);
    plan.models.push_back(std::move(model.plan));
  }
  return plan;
}

std::string_view Bound::link() const {
  const std::array<std::pair<double, std::string_view>, 5> all = {
      {{device_memory, "device_memory"},
       {host_memory, "host_memory"},
       {host_to_device, "host_to_device"},
       {disk, "disk"},
       {compute, "compute"}}};
  return std::max_element(all.begin(), all.end(),
                          [](auto& a, auto& b) { return a.first < b.first; })
      ->second;
}

double Bound::step_seconds() const {
  return std::max({device_memory, host_memory, host_to_device, disk, compute});
}

Bound EstimateBound(const Plan& plan, const Rates& rates, bool cpu_rows) {
  Bound bound;
  auto seconds = [](double amount, double rate) { return rate > 0 ? amount / rate : 0; };
  double host_bytes = 0, device_bytes = 0, disk_bytes = 0, operations = 0, kv_bytes = 0;
  double expert_bytes = 0, expert_disk_bytes = 0, by_cpu = 0, mapped_bytes = 0;
  uint64_t resident_bytes = 0, expert_cache_bytes = 0;
  double device_expert_step_bytes = 0;
  for (const ModelPlan& model : plan.models) {
    device_bytes += model.device_bytes;
    device_expert_step_bytes += model.device_expert_step_bytes;
    expert_cache_bytes += model.device_expert_bytes;
    host_bytes += model.host_bytes;
    by_cpu += model.host_rows_bytes;
    disk_bytes += model.disk_bytes;
    expert_bytes += model.expert_step_bytes - model.device_expert_step_bytes;
    expert_disk_bytes += model.expert_disk_bytes;
    expert_cache_bytes += model.expert_cache_bytes;
    resident_bytes += model.host_bytes + model.expert_cache_bytes;
    kv_bytes += model.kv_read_bytes;
    mapped_bytes += model.MappedPart(model.kv_read_bytes);
    operations += 2 * model.matrix_elements * model.use.batch;
  }
  bound.disk = seconds(disk_bytes + expert_disk_bytes, rates.disk);
  bound.compute = seconds(operations, rates.compute);
  if (plan.budget.device_bytes == 0) {
    bound.host_memory =
        seconds(host_bytes + disk_bytes + expert_bytes + kv_bytes, rates.host_bandwidth);
    bound.resident_bytes = resident_bytes;
    bound.streamed_bytes = static_cast<uint64_t>(disk_bytes + expert_disk_bytes);
    return bound;
  }
  // Rows computed where they lie in RAM and rows moved over the link finish together. Experts are
  // always computed where they lie.
  const double away = host_bytes + disk_bytes;
  if (cpu_rows && rates.host_bandwidth > 0) {
    const double host = rates.host_bandwidth, link = rates.link;
    by_cpu = (host * (away + mapped_bytes) - link * mapped_bytes) / (host + link);
    by_cpu = std::clamp(by_cpu, 0.0, away);
  }
  // Keys and values in RAM cross the link to where they are used.
  bound.host_memory = seconds(by_cpu + expert_bytes + mapped_bytes, rates.host_bandwidth);
  bound.host_to_device = seconds(away - by_cpu + mapped_bytes, rates.link);
  bound.device_memory =
      seconds(device_bytes + device_expert_step_bytes + kv_bytes - mapped_bytes + away - by_cpu,
              rates.device_bandwidth);
  bound.resident_bytes = static_cast<uint64_t>(device_bytes + by_cpu) + expert_cache_bytes;
  bound.streamed_bytes = static_cast<uint64_t>(away - by_cpu + expert_disk_bytes);
  return bound;
}

}  // namespace qianyi
