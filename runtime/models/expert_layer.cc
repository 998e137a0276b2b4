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

Route ExpertLayer::Routing(Tensor x, Pass& pass) const {
  const HostSide& host = pass.host();
  return {.gate = gating_.gate,
          .x = x,
          .weight = host.constant(gating_.router),
          .bias = host.constant(gating_.bias),
          .correction = host.constant(gating_.correction),
          .experts = size(),
          .top_k = gating_.top_k,
          .groups = gating_.groups,
          .kept_groups = gating_.kept_groups,
          .normalize = gating_.normalize,
          .scale = gating_.scale,
          .scores = host.experts().scores};
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
  const ExpertBuffers& buffers = pass.host().experts();
  Route route = Routing(pass.host().FetchInput(x), pass);
  route.uniform = uniform;
  route.chosen = buffers.chosen;
  route.weights = buffers.weights;
  // The host goes by what was chosen.
  RouteWithin(Capacity(x.rows), route, pass.host().backend(), pass.host().stream());
  const int64_t active = GroupByExpert(x.rows * gating_.top_k, pass);
  for (int64_t i = 0; i < active; ++i) buffers.active[i] = experts_[buffers.active[i]].number;
  pass.store().experts()->Want({buffers.active, static_cast<size_t>(active)});
}

bool ExpertLayer::WantsForesight(Pass& pass) {
  return pass.tokens() <= ExpertBuffers::kForeseenTokens && !pass.store().experts()->holds_all();
}

void ExpertLayer::Foresee(Tensor x, Pass& pass) const {
  const ExpertBuffers& buffers = pass.host().experts();
  Route route = Routing(pass.host().Fetch(x, buffers.input), pass);
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

absl::Status ExpertLayer::Finish(Tensor x, Tensor out, Pass& pass) const {
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
