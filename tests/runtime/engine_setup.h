// Engines over small invented models, and the tokens of requests: shared by tests of the engine.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/engine.h"

namespace qianyi {

inline constexpr char kCausal[] =
    R"({"model_type":"chatglm","num_layers":3,"hidden_size":128,"ffn_hidden_size":272,)"
    R"("num_attention_heads":8,"multi_query_group_num":2,"kv_channels":16,)"
    R"("padded_vocab_size":517,"seq_length":512})";
inline constexpr char kBlanks[] =
    R"({"model_type":"glm","num_layers":2,"hidden_size":288,"num_attention_heads":6,)"
    R"("max_sequence_length":256,"vocab_size":400,"special_token_ids":)"
    R"({"sop":390,"eop":391,"MASK":392,"gMASK":393,"sMASK":394,"eos":395}})";

// Residuals are scaled (DeepNorm).
inline constexpr char kGlm130b[] =
    R"({"model_type":"glm-130b","num_layers":3,"hidden_size":128,"inner_hidden_size":272,)"
    R"("num_attention_heads":4,"max_sequence_length":512,"vocab_size":517,)"
    R"("special_token_ids":{"[MASK]":510,"[gMASK]":511,"[sMASK]":512,"sop":513,"eop":514,"eos":515}})";

inline constexpr char kExperts[] =
    R"({"model_type":"glm4_moe","num_hidden_layers":4,"hidden_size":128,"intermediate_size":272,)"
    R"("num_attention_heads":8,"num_key_value_heads":2,"head_dim":16,"vocab_size":517,)"
    R"("max_position_embeddings":512,"first_k_dense_replace":1,"n_routed_experts":16,)"
    R"("num_experts_per_tok":3,"moe_intermediate_size":80,"n_group":4,"topk_group":3,)"
    R"("use_qk_norm":true,"attention_bias":true})";

// Without experts: only its attention matters.
inline constexpr char kLatent[] =
    R"({"model_type":"glm4_moe_lite","num_hidden_layers":2,"hidden_size":128,)"
    R"("intermediate_size":272,"num_attention_heads":5,"q_lora_rank":48,"kv_lora_rank":64,)"
    R"("qk_nope_head_dim":24,"qk_rope_head_dim":8,"v_head_dim":32,"vocab_size":517,)"
    R"("max_position_embeddings":512,"first_k_dense_replace":2,"n_routed_experts":4,)"
    R"("num_experts_per_tok":2,"moe_intermediate_size":16})";

ModelFile Lay(const char* config, PackedFormat format, uint64_t seed = 5);

struct EngineSetup {
  const char* config = kCausal;
  PackedFormat format = {DType::kI4, 32};
  int64_t batch = 17;
  int64_t step_tokens = 512;
  int threads = 2;
  bool streamed = false;
  int64_t queue = 64;
  uint64_t adapter_bytes = 0;
  int experts_in_memory = 2;  // of a streamed model
  int64_t guesses = 0;        // always made
  int64_t branches = 0;       // beside them
  bool keeps_prefixes = true;
  std::optional<DType> kv_dtype = std::nullopt;
  std::optional<PackedFormat> draft = std::nullopt;  // of a draft model of the same shape
  uint64_t draft_seed = 5;                           // 5: of the same weights
  uint64_t prefix_bytes = 0;                         // on disk, for what requests begin with
};

std::unique_ptr<Engine> Open(const EngineSetup& setup, ReaderFactory readers = {});

// Below 380, which all these models have.
std::vector<int32_t> PromptIds(int which, int length);
// Long and short ones; of models that fill blanks, some with two.
std::vector<int32_t> SomePrompt(const Engine& engine, int which);
// Seed 0 is greedy.
GenerateRequest Request(const Engine& engine, std::vector<int32_t> ids, uint64_t seed,
                        int32_t max_tokens = 12);

// Seventeen at once, greedy and drawn, from SomePrompt; `max_tokens` each. They mostly choose among
// four tokens, the more so the larger `bias`, so that guesses are found; some end early.
std::vector<GenerateRequest> FewWords(const Engine& engine, float bias,
                                      int32_t (*max_tokens)(int which));
// Of a test over {kCausal, kBlanks, kExperts, kLatent}.
std::string FamilyName(const ::testing::TestParamInfo<const char*>& test);

struct Outcome {
  std::vector<std::vector<int32_t>> blanks;
  absl::Status status;
};

Outcome Collect(Sink& sink);
// All at once; one that is refused has only its status.
std::vector<Outcome> Generate(Engine& engine, std::vector<GenerateRequest> requests);

}  // namespace qianyi
