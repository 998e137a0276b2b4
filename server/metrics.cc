#include "server/metrics.h"

#include <chrono>
#include <tuple>
#include <utility>
#include <vector>

#include "prometheus/gauge.h"
#include "runtime/link_bytes.h"
#include "runtime/memory_size.h"

namespace qianyi {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

const prometheus::Histogram::BucketBoundaries kFirstTokenSeconds = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
const prometheus::Histogram::BucketBoundaries kInterTokenSeconds = {
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};
const prometheus::Histogram::BucketBoundaries kRequestSeconds = {
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600};

prometheus::Family<prometheus::Counter>& Counters(prometheus::Registry& registry, const char* name,
                                                  const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

// One family, whoever asks first.
prometheus::Family<prometheus::Counter>& Finished(prometheus::Registry& registry) {
  return Counters(registry, "qianyi_finished_total", "Answers that ended, by how");
}

using Labels = std::vector<ClientMetric::Label>;

// A family read from the engines at this moment.
class Reading {
 public:
  Reading(const char* name, const char* help, MetricType type) : family_{name, help, type, {}} {}
  void Add(Labels labels, double value) {
    ClientMetric metric;
    metric.label = std::move(labels);
    if (family_.type == MetricType::Counter) metric.counter.value = value;
    if (family_.type == MetricType::Gauge) metric.gauge.value = value;
    family_.metric.push_back(std::move(metric));
  }
  bool empty() const { return family_.metric.empty(); }
  MetricFamily Take() { return std::move(family_); }

 private:
  MetricFamily family_;
};

}  // namespace

FinishMetrics::FinishMetrics(prometheus::Registry& registry, const std::string& model)
    : stop(Finished(registry).Add({{"model", model}, {"reason", "stop"}})),
      length(Finished(registry).Add({{"model", model}, {"reason", "length"}})),
      cancelled(Finished(registry).Add({{"model", model}, {"reason", "cancelled"}})),
      failed(Finished(registry).Add({{"model", model}, {"reason", "failed"}})) {}

void FinishMetrics::Count(const absl::Status& status, FinishReason why) {
  if (status.ok()) {
    (why == FinishReason::kLength ? length : stop).Increment();
  } else {
    (absl::IsCancelled(status) ? cancelled : failed).Increment();
  }
}

ServerMetrics::ServerMetrics(std::span<const std::unique_ptr<ServedModel>> models,
                             const Admission& admission)
    : served_(models),
      admission_(admission),
      http_(Counters(registry_, "qianyi_http_requests_total", "HTTP requests answered")),
      grpc_(Counters(registry_, "qianyi_grpc_requests_total", "gRPC calls answered")),
      rejected_(Counters(registry_, "qianyi_rejected_total", "Requests that were refused")) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  prometheus::BuildGauge()
      .Name("qianyi_start_time_seconds")
      .Help("When the server began, in Unix time")
      .Register(registry_)
      .Add({})
      .Set(now.count());
  auto& queue = prometheus::BuildHistogram()
                    .Name("qianyi_queue_seconds")
                    .Help("From acceptance to a place")
                    .Register(registry_);
  auto& first = prometheus::BuildHistogram()
                    .Name("qianyi_time_to_first_token_seconds")
                    .Help("From acceptance to the first token")
                    .Register(registry_);
  auto& inter = prometheus::BuildHistogram()
                    .Name("qianyi_inter_token_seconds")
                    .Help("Between tokens of one request")
                    .Register(registry_);
  auto& request = prometheus::BuildHistogram()
                      .Name("qianyi_request_seconds")
                      .Help("From acceptance to the end of a request")
                      .Register(registry_);
  auto& open = prometheus::BuildGauge()
                   .Name("qianyi_open")
                   .Help("Connections, requests and calls that have not ended")
                   .Register(registry_);
  size_t kind = 0;
  for (const char* name : {"http_connection", "http_request", "grpc_call"}) {
    open_[kind++] = &open.Add({{"kind", name}});
  }
  for (const auto& model : models) {
    const prometheus::Labels labels = {{"model", model->name}};
    models_.emplace(
        model.get(),
        ModelMetrics{queue.Add(labels, kFirstTokenSeconds), first.Add(labels, kFirstTokenSeconds),
                     inter.Add(labels, kInterTokenSeconds), request.Add(labels, kRequestSeconds),
                     FinishMetrics(registry_, model->name)});
  }
}

void ServerMetrics::CountHttp(const std::string& handler, const std::string& method, int status) {
  http_.Add({{"handler", handler}, {"method", method}, {"status", std::to_string(status)}})
      .Increment();
}

void ServerMetrics::CountGrpc(const std::string& method, int code) {
  grpc_.Add({{"method", method}, {"code", std::to_string(code)}}).Increment();
  CountOpen(Open::kGrpcCall, -1);
}

void ServerMetrics::CountRejected(const std::string& reason) {
  rejected_.Add({{"reason", reason}}).Increment();
}

void ServerMetrics::CountOpen(Open what, int change) {
  open_[static_cast<size_t>(what)]->Increment(change);
}

std::string ServerMetrics::Render(MetricsFormat format) const {
  const auto counter = MetricType::Counter;
  const auto gauge = MetricType::Gauge;
  Reading prompt("qianyi_prompt_tokens_total", "Prompt tokens computed", counter);
  Reading cached("qianyi_cached_prompt_tokens_total",
                 "Prompt tokens that had been computed for earlier requests", counter);
  Reading generated("qianyi_generated_tokens_total", "Tokens generated", counter);
  Reading guesses("qianyi_guesses_total", "Tokens that steps computed ahead, by what came of them",
                  counter);
  Reading steps("qianyi_steps_total", "Steps of the engine", counter);
  Reading step_sequences("qianyi_step_sequences_total",
                         "Sequences that wrote in steps, each once a step", counter);
  Reading step_seconds("qianyi_step_seconds_total", "Time spent in steps", counter);
  Reading step_threads(
      "qianyi_step_threads",
      "Threads that computed in the last step; fewer where the disk is faster for it", gauge);
  Reading image_steps("qianyi_image_steps_total", "Of these, steps of models of pictures", counter);
  Reading weight("qianyi_compute_weight", "Share of the processors, beside other models", gauge);
  Reading compute("qianyi_compute_seconds_total", "A model had its turn on the processors",
                  counter);
  Reading turn("qianyi_compute_wait_seconds_total", "It waited for its turn", counter);
  Reading link("qianyi_link_bytes_total", "Weight bytes moved, by link", counter);
  Reading link_limit("qianyi_link_limit_bytes_per_second",
                     "What a link was measured to sustain on this machine", gauge);
  Reading bound("qianyi_step_bound_seconds",
                "The least time of a step with all places taken and full, by what it waits for",
                gauge);
  Reading stall("qianyi_weight_stall_seconds_total", "Steps waited for weights", counter);
  Reading expert_uses("qianyi_expert_uses_total",
                      "Experts that steps needed: hit = in memory already, miss = read for it",
                      counter);
  Reading expert_bytes("qianyi_expert_used_bytes_total",
                       "Their bytes, by the tier they were found in", counter);
  Reading expert_read("qianyi_expert_read_bytes_total",
                      "Bytes of experts read from disk, those read in vain included", counter);
  Reading running("qianyi_requests_running", "Requests that have a place", gauge);
  Reading waiting("qianyi_requests_waiting", "Requests that wait for a place", gauge);
  Reading batch("qianyi_batch_limit", "Places", gauge);
  Reading pages("qianyi_kv_pages", "Pages of the cache of keys and values", gauge);
  Reading kv_tokens("qianyi_kv_cache_tokens",
                    "Room in the cache of keys and values: what requests hold, and all of it",
                    gauge);
  Reading weights("qianyi_weight_bytes", "Weights, by where they live", gauge);
  Reading memory("qianyi_memory_bytes", "Memory of the process", gauge);
  Reading adapters("qianyi_adapters", "Adapters that requests may name", gauge);
  Reading adapter_bytes("qianyi_adapter_bytes",
                        "Memory of adapters, those still in use after unloading included", gauge);
  Reading admitted("qianyi_admitted", "What requests that run or wait hold, of what they may",
                   gauge);
  Reading admitted_limit("qianyi_admitted_limit", "What they may hold", gauge);
  for (const auto& [reading, load] :
       {std::pair(&admitted, admission_.held()), std::pair(&admitted_limit, admission_.limit())}) {
    reading->Add({{"kind", "choices"}}, static_cast<double>(load.choices));
    reading->Add({{"kind", "tokens"}}, static_cast<double>(load.tokens));
    reading->Add({{"kind", "bytes"}}, static_cast<double>(load.bytes));
  }
  uint64_t kv_bytes = 0, kv_mapped_bytes = 0;
  for (const auto& model : served_) {
    const Labels labels = {{"model", model->name}};
    const auto with = [&](const char* name, const char* value) {
      return Labels{{"model", model->name}, {name, value}};
    };
    const EngineStats stats = model->engine->stats();
    const WeightStoreStats store = model->engine->weight_stats();
    const ModelPlan& plan = model->engine->plan().models[0];
    prompt.Add(labels, static_cast<double>(stats.prompt_tokens));
    cached.Add(labels, static_cast<double>(stats.cached_tokens));
    generated.Add(labels, static_cast<double>(stats.generated_tokens));
    guesses.Add(with("result", "accepted"), static_cast<double>(stats.accepted_tokens));
    guesses.Add(with("result", "refused"),
                static_cast<double>(stats.guessed_tokens - stats.accepted_tokens));
    steps.Add(labels, static_cast<double>(stats.steps));
    step_sequences.Add(labels, static_cast<double>(stats.step_sequences));
    step_seconds.Add(labels, stats.step_seconds);
    step_threads.Add(labels, stats.step_threads);
    if (model->picture != nullptr) image_steps.Add(labels, static_cast<double>(stats.steps));
    if (model->share != nullptr) {
      ComputeShare::Stats share = model->share->stats();
      if (model->picture_share != nullptr) {
        const ComputeShare::Stats pictures = model->picture_share->stats();
        share.seconds += pictures.seconds;
        share.wait_seconds += pictures.wait_seconds;
      }
      weight.Add(labels, share.weight);
      compute.Add(labels, share.seconds);
      turn.Add(labels, share.wait_seconds);
    }
    const LinkBytes moved = MovedWeights(model->engine->plan(), stats, store);
    const Rates& rates = model->rates;
    const Bound least = EstimateBound(model->engine->plan(), rates, /*cpu_rows=*/false);
    const auto add = [&](Reading& reading, const char* name, double value) {
      if (value > 0) reading.Add(with("link", name), value);
    };
    for (const auto& [name, bytes, limit, seconds] :
         {std::tuple("disk", moved.disk, rates.disk, least.disk),
          std::tuple("host_memory", moved.host_memory, rates.host_bandwidth, least.host_memory),
          std::tuple("host_to_device", moved.host_to_device, rates.link, least.host_to_device),
          std::tuple("device_memory", moved.device_memory, rates.device_bandwidth,
                     least.device_memory)}) {
      add(link, name, bytes);
      add(link_limit, name, limit);
      add(bound, name, seconds);
    }
    add(bound, "compute", least.compute);
    stall.Add(labels, store.stall_seconds);
    running.Add(labels, static_cast<double>(stats.running));
    waiting.Add(labels, static_cast<double>(stats.waiting));
    batch.Add(labels, static_cast<double>(plan.use.batch));
    pages.Add(with("kind", "used"), static_cast<double>(stats.pages_used));
    pages.Add(with("kind", "kept"), static_cast<double>(stats.pages_kept));
    pages.Add(with("kind", "disk"), static_cast<double>(stats.pages_on_disk));
    pages.Add(with("kind", "all"), static_cast<double>(KvPages(plan.use)));
    weights.Add(with("tier", "host"), static_cast<double>(plan.host_bytes + plan.constant_bytes));
    if (plan.device_bytes > 0) {
      weights.Add(with("tier", "device"),
                  static_cast<double>(plan.device_bytes + plan.device_expert_bytes));
    }
    weights.Add(with("tier", "lent"), static_cast<double>(store.lent_bytes));
    weights.Add(with("tier", "disk"), static_cast<double>(plan.disk_bytes - store.lent_bytes));
    if (plan.expert_bytes > 0) {
      const ExpertStats& experts = store.experts;
      weights.Add(with("tier", "expert_cache"), static_cast<double>(plan.expert_cache_bytes));
      weights.Add(with("tier", "experts"), static_cast<double>(plan.expert_bytes));
      expert_uses.Add(with("result", "hit"), static_cast<double>(experts.hits));
      expert_uses.Add(with("result", "miss"), static_cast<double>(experts.uses - experts.hits));
      expert_bytes.Add(with("tier", "host"), static_cast<double>(experts.hit_bytes));
      expert_bytes.Add(with("tier", "disk"),
                       static_cast<double>(experts.used_bytes - experts.hit_bytes));
      expert_read.Add(labels, static_cast<double>(experts.read_bytes));
    }
    kv_tokens.Add(with("kind", "held"), static_cast<double>(stats.pages_used * kPageTokens));
    kv_tokens.Add(with("kind", "limit"), static_cast<double>(KvPages(plan.use) * kPageTokens));
    kv_bytes += plan.kv_bytes;
    kv_mapped_bytes += plan.MappedPart(plan.kv_bytes);
    const AdapterSet& loaded = model->engine->adapters();
    adapters.Add(labels, static_cast<double>(loaded.List().size()));
    adapter_bytes.Add(with("kind", "used"), static_cast<double>(loaded.used_bytes()));
    adapter_bytes.Add(with("kind", "limit"), static_cast<double>(loaded.limit_bytes()));
  }
  memory.Add({{"kind", "resident"}}, static_cast<double>(ResidentBytes()));
  memory.Add({{"kind", "budget"}},
             static_cast<double>(served_.front()->engine->plan().budget.host_bytes));
  memory.Add({{"kind", "kv_cache"}}, static_cast<double>(kv_bytes));
  if (kv_mapped_bytes > 0) {  // of a device's cache
    memory.Add({{"kind", "kv_cache_mapped"}}, static_cast<double>(kv_mapped_bytes));
  }
  std::vector<MetricFamily> families = registry_.Collect();
  for (Reading* reading :
       {&prompt,       &cached,       &generated,     &guesses, &steps,       &step_sequences,
        &step_seconds, &step_threads, &image_steps,   &weight,  &compute,     &turn,
        &link,         &link_limit,   &bound,         &stall,   &expert_uses, &expert_bytes,
        &expert_read,  &running,      &waiting,       &batch,   &kv_tokens,   &pages,
        &weights,      &adapters,     &adapter_bytes, &memory,  &admitted,    &admitted_limit}) {
    if (!reading->empty()) families.push_back(reading->Take());
  }
  return MetricsText(families, format);
}

}  // namespace qianyi
