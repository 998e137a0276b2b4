#include "runtime/models/expert_layer.h"

#include <algorithm>
#include <cmath>

namespace qianyi {

void RouteWithin(int64_t capacity, Route route, const Backend& backend, Stream stream) {
  route.capacity = std::max<int64_t>(capacity, 0);
  backend.route(route, stream);
  backend.synchronize(stream);
  if (capacity == 0) std::fill_n(route.chosen, route.x.rows * route.top_k, -1);
}

int64_t ExpertLayer::Capacity(int64_t tokens) const {
  if (gating_.capacity_rate <= 0) return -1;
  const double most = gating_.capacity_rate * static_cast<double>(tokens);
  if (gating_.top_k == 2) return static_cast<int64_t>(std::ceil(most)) * 2 / size();
  return static_cast<int64_t>(std::ceil(most / static_cast<double>(size())));
}

template <typename Constants>
Route ExpertLayer::Routing(Tensor x, const Constants& constants, float* scores) const {
  const auto constant = [&](int tensor) {
    return tensor < 0 ? nullptr : constants.constant(tensor);
  };
  return {.gate = gating_.gate,
          .x = x,
          .weight = constant(gating_.router),
          .bias = constant(gating_.bias),
          .correction = constant(gating_.correction),
          .experts = size(),
          .top_k = gating_.top_k,
          .groups = gating_.groups,
          .kept_groups = gating_.kept_groups,
          .normalize = gating_.normalize,
          .scale = gating_.scale,
          .scores = scores};
}

// Sorts the choices by expert: `rows` holds, from begin[e] on, the choices (token * top_k + place)
// of expert e, in order. `active` are the experts that have any; how many there are.
int64_t ExpertLayer::GroupByExpert(int64_t choices, Pass& pass) const {
  const ExpertBuffers& buffers = pass.host().experts();
  std::fill_n(buffers.begin, size() + 1, 0);
  for (int64_t i = 0; i < choices; ++i) {
    if (buffers.chosen[i] >= 0) ++buffers.begin[buffers.chosen[i] + 1];
  }
  int64_t active = 0;
  for (int64_t e = 0; e < size(); ++e) {
    if (buffers.begin[e + 1] > 0) buffers.active[active++] = static_cast<int32_t>(e);
    buffers.begin[e + 1] += buffers.begin[e];
  }
  for (int64_t i = 0; i < choices; ++i) {
    const int32_t expert = buffers.chosen[i];
    if (expert < 0) continue;
    const int32_t at = buffers.begin[expert]++;
    buffers.rows[at] = static_cast<int32_t>(i);
    buffers.row_tokens[at] = static_cast<int32_t>(i / gating_.top_k);
  }
  // Every begin moved on to its end, which is the next one's begin.
  for (int64_t e = size(); e > 0; --e) buffers.begin[e] = buffers.begin[e - 1];
  buffers.begin[0] = 0;
  return active;
}

void ExpertLayer::Begin(Tensor x, Pass& pass, const float* uniform) const {
  if (OnDevice(pass)) return;
  const ExpertBuffers& buffers = pass.host().experts();
  Route route = Routing(pass.host().FetchInput(x), pass.host(), buffers.scores);
  route.uniform = uniform;
  route.chosen = buffers.chosen;
  route.weights = buffers.weights;
  // The host goes by what was chosen.
  RouteWithin(Capacity(x.rows), route, pass.host().backend(), pass.host().stream());
  const int64_t active = GroupByExpert(x.rows * gating_.top_k, pass);
  for (int64_t i = 0; i < active; ++i) buffers.active[i] = experts_[buffers.active[i]].number;
  pass.store().experts()->Want({buffers.active, static_cast<size_t>(active)});
}

bool ExpertLayer::WantsForesight(Pass& pass) const {
  return pass.tokens() <= ExpertBuffers::kForeseenTokens && !OnDevice(pass) &&
         !pass.store().experts()->holds_all();
}

void ExpertLayer::Foresee(Tensor x, Pass& pass) const {
  const ExpertBuffers& buffers = pass.host().experts();
  Route route = Routing(pass.host().Fetch(x, buffers.input), pass.host(), buffers.scores);
  route.chosen = buffers.foreseen;
  route.weights = buffers.foreseen_weights;
  pass.host().backend().route(route, pass.host().stream());
  pass.host().backend().synchronize(pass.host().stream());
  // By place first: a token's first choice is the surest.
  int32_t* list = buffers.active;
  int64_t count = 0;
  for (int64_t j = 0; j < gating_.top_k; ++j) {
    for (int64_t t = 0; t < x.rows && count < size(); ++t) {
      const int32_t number = experts_[buffers.foreseen[t * gating_.top_k + j]].number;
      if (std::find(list, list + count, number) == list + count) list[count++] = number;
    }
  }
  pass.store().experts()->Foresee({list, static_cast<size_t>(count)});
}

absl::Status ExpertLayer::RunExpert(int64_t expert, Tensor x, HostSide& host) const {
  const ExpertBuffers& buffers = host.experts();
  const ExpertWeights& weights = experts_[expert];
  const int64_t begin = buffers.begin[expert], rows = buffers.begin[expert + 1] - begin;
  const Tensor input = F32(buffers.input, rows, x.cols);
  host.backend().copy_rows({.x = x, .ids = buffers.row_tokens + begin, .out = input},
                           host.stream());
  const bool gated = weights.gate.weight >= 0;
  const Tensor wide = host.wide(rows, gated ? 2 * weights.ffn : weights.ffn);
  const Tensor up = wide.Columns(0, weights.ffn);
  if (auto status = host.Linear(weights.up, input, up); !status.ok()) return status;
  if (gated) {
    const Tensor gate = wide.Columns(weights.ffn, weights.ffn);
    if (auto status = host.Linear(weights.gate, input, gate); !status.ok()) return status;
    host.backend().gated_activate(
        {.kind = gating_.activation, .gate = gate, .value = up, .out = up}, host.stream());
  } else {
    host.backend().activate({.kind = gating_.activation, .x = up, .out = up}, host.stream());
  }
  const Tensor output = F32(buffers.output + begin * x.cols, rows, x.cols);
  return host.Linear(weights.down, up, output);
}

// Larger tiles read an expert's weights fewer times; smaller ones leave less of a tile empty.
int64_t TileRows(int64_t choices, int64_t experts) {
  const int64_t mean = choices / experts;
  return mean <= 8 ? 8 : mean <= 16 ? 16 : 32;
}

// One after the other without a word to the host: kernels find who was chosen where others left it.
void ExpertLayer::RunOnDevice(Tensor x, Tensor out, Pass& pass) const {
  const DeviceExpertBuffers& buffers = pass.device_experts();
  const Backend& backend = pass.backend();
  const Stream stream = pass.stream();
  const ExpertWeights& first = experts_.front();
  const std::vector<StoredTensor>& tensors = pass.store().file().tensors;
  const int64_t choices = x.rows * gating_.top_k;
  if (choices == 0) return;

  Route route = Routing(x, pass, buffers.scores);
  route.chosen = buffers.chosen;
  route.weights = buffers.weights;
  backend.route(route, stream);
  const GroupChoices group = {.chosen = buffers.chosen,
                              .tokens = x.rows,
                              .top_k = gating_.top_k,
                              .experts = size(),
                              .tile_rows = TileRows(choices, size()),
                              .row_tokens = buffers.row_tokens,
                              .places = buffers.places,
                              .tiles = buffers.tiles};
  backend.group_choices(group, stream);
  const auto multiply = [&](const Projection& projection, ExpertLinear task) {
    const StoredTensor& tensor = tensors[projection.weight];
    task.tiles = group.tiles;
    task.tile_rows = group.tile_rows;
    task.experts = size();
    task.weights = pass.ExpertMatrices(projection.weight);
    task.stride = Stride();
    task.format = tensor.format;
    task.rows = tensor.spec.rows();
    task.cols = tensor.spec.cols();
    backend.expert_linear(task, stream);
  };
  const bool integer = tensors[first.up.weight].format.integer();
  const QuantizedRows x_quantized = integer ? pass.Quantized(x) : QuantizedRows{};
  const Tensor up = F32(buffers.up, choices, first.ffn);
  const auto widen = [&](const Projection& projection, Tensor to) {
    multiply(projection, {.x = x, .quantized = x_quantized, .x_rows = group.row_tokens, .out = to});
  };
  widen(first.up, up);
  if (first.gate.weight >= 0) {
    const Tensor gate = F32(buffers.gate, choices, first.ffn);
    widen(first.gate, gate);
    backend.gated_activate({.kind = gating_.activation, .gate = gate, .value = up, .out = up},
                           stream);
  } else {
    backend.activate({.kind = gating_.activation, .x = up, .out = up}, stream);
  }
  QuantizedRows up_quantized = buffers.quantized;
  up_quantized.rows = choices;
  up_quantized.cols = first.ffn;
  if (integer) backend.quantize({.x = up, .out = up_quantized}, stream);
  const Tensor output = F32(buffers.output, choices, x.cols);
  multiply(first.down, {.x = up, .quantized = up_quantized, .out = output});
  backend.combine({.rows = output,
                   .ids = buffers.places,
                   .weights = buffers.weights,
                   .count = gating_.top_k,
                   .out = out},
                  stream);
}

int64_t ExpertLayer::Stride() const {
  return size() < 2 ? 1 : experts_[1].up.weight - experts_[0].up.weight;
}

absl::Status ExpertLayer::Finish(Tensor x, Tensor out, Pass& pass) const {
  if (OnDevice(pass)) {
    RunOnDevice(x, out, pass);
    return absl::OkStatus();
  }
  HostSide& host = pass.host();
  const ExpertBuffers& buffers = host.experts();
  ExpertCache& cache = *pass.store().experts();
  const int first = experts_.front().number;
  int64_t used = 0;
  for (int64_t e = 0; e < size(); ++e) used += buffers.begin[e + 1] > buffers.begin[e] ? 1 : 0;
  for (; used > 0; --used) {
    const absl::StatusOr<int32_t> number = cache.Next();
    if (!number.ok()) return number.status();
    const absl::Status status = RunExpert(*number - first, host.Fetched(x), host);
    if (!status.ok()) return status;
  }
  // A choice's row in `output` is where it stands among the sorted ones.
  const int64_t choices = x.rows * gating_.top_k;
  const int64_t sorted = buffers.begin[size()];
  std::fill_n(buffers.chosen, choices, -1);
  for (int64_t i = 0; i < sorted; ++i) buffers.chosen[buffers.rows[i]] = static_cast<int32_t>(i);
  host.Add({.rows = F32(buffers.output, sorted, x.cols),
            .ids = buffers.chosen,
            .weights = buffers.weights,
            .count = gating_.top_k,
            .out = out});
  return absl::OkStatus();
}

}  // namespace qianyi
