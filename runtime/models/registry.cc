#include "runtime/models/registry.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoints/gguf.h"
#include "runtime/model.h"
#include "runtime/models/chatglm2.h"
#include "runtime/models/chatglm_6b.h"
#include "runtime/models/cogview.h"
#include "runtime/models/glm4.h"
#include "runtime/models/glm4_moe.h"
#include "runtime/models/glm4_moe_lite.h"
#include "runtime/models/glm_130b.h"
#include "runtime/models/glm_blocklm.h"
#include "runtime/parse_json.h"
#include "runtime/storage/model_file.h"

namespace qianyi {
namespace {

std::string Join(const std::vector<std::string_view>& names) {
  std::string list;
  for (std::string_view name : names) {
    if (!list.empty()) list += ", ";
    list += name;
  }
  return list;
}

struct Builtin {
  std::string_view name;
  std::string_view config;
};

// Published shapes; sources beside each family's file.
constexpr Builtin kBuiltins[] = {
    {"glm-large-chinese",
     R"({"model_type":"glm","num_layers":24,"hidden_size":1024,"num_attention_heads":16,)"
     R"("max_sequence_length":1024,"vocab_size":50048})"},
    {"glm-10b",
     R"({"model_type":"glm","num_layers":48,"hidden_size":4096,"num_attention_heads":64,)"
     R"("max_sequence_length":1024,"vocab_size":50304})"},
    {"glm-10b-chinese",
     R"({"model_type":"glm","num_layers":48,"hidden_size":4096,"num_attention_heads":64,)"
     R"("max_sequence_length":1024,"vocab_size":50048})"},
    {"glm-130b", R"({"model_type":"glm-130b","num_layers":70,"hidden_size":12288,)"
                 R"("inner_hidden_size":32768,"num_attention_heads":96,"max_sequence_length":2048,)"
                 R"("vocab_size":150528})"},
    {"chatglm-6b",
     R"({"model_type":"chatglm","num_layers":28,"hidden_size":4096,"inner_hidden_size":16384,)"
     R"("num_attention_heads":32,"max_sequence_length":2048,"layernorm_epsilon":1e-5,)"
     R"("vocab_size":130528,"mask_token_id":130000,"gmask_token_id":130001,)"
     R"("bos_token_id":130004,"eos_token_id":130005,"position_encoding_2d":true})"},
    {"chatglm2-6b",
     R"({"model_type":"chatglm","num_layers":28,"hidden_size":4096,"ffn_hidden_size":13696,)"
     R"("num_attention_heads":32,"multi_query_attention":true,"multi_query_group_num":2,)"
     R"("kv_channels":128,"padded_vocab_size":65024,"seq_length":32768,)"
     R"("layernorm_epsilon":1e-5,"add_qkv_bias":true,"eos_token_id":2})"},
    {"glm-4-9b",
     R"({"model_type":"chatglm","num_layers":40,"hidden_size":4096,"ffn_hidden_size":13696,)"
     R"("num_attention_heads":32,"multi_query_attention":true,"multi_query_group_num":2,)"
     R"("kv_channels":128,"padded_vocab_size":151552,"seq_length":131072,)"
     R"("layernorm_epsilon":1.5625e-7,"rope_ratio":500,"add_qkv_bias":true,)"
     R"("eos_token_id":[151329,151336,151338]})"},
    {"glm-4-9b-hf", R"({"model_type":"glm","num_hidden_layers":40,"hidden_size":4096,)"
                    R"("intermediate_size":13696,"num_attention_heads":32,"num_key_value_heads":2,)"
                    R"("head_dim":128,"vocab_size":151552,"max_position_embeddings":131072,)"
                    R"("rms_norm_eps":1.5625e-7,"rope_theta":10000.0,"attention_bias":true,)"
                    R"("eos_token_id":[151329,151336,151338]})"},
    {"glm-4-32b", R"({"model_type":"glm4","num_hidden_layers":61,"hidden_size":6144,)"
                  R"("intermediate_size":23040,"num_attention_heads":48,"num_key_value_heads":2,)"
                  R"("head_dim":128,"vocab_size":151552,"max_position_embeddings":32768,)"
                  R"("rms_norm_eps":1e-5,"rope_theta":10000.0,"attention_bias":false,)"
                  R"("eos_token_id":[151329,151336,151338]})"},
    {"glm-4.5-air",
     R"({"model_type":"glm4_moe","num_hidden_layers":46,"hidden_size":4096,"intermediate_size":10944,)"
     R"("num_attention_heads":96,"num_key_value_heads":8,"head_dim":128,"vocab_size":151552,)"
     R"("max_position_embeddings":131072,"rms_norm_eps":1e-5,"rope_theta":1000000,)"
     R"("partial_rotary_factor":0.5,"attention_bias":true,"use_qk_norm":false,)"
     R"("first_k_dense_replace":1,"n_routed_experts":128,"num_experts_per_tok":8,)"
     R"("n_shared_experts":1,"moe_intermediate_size":1408,"n_group":1,"topk_group":1,)"
     R"("norm_topk_prob":true,"routed_scaling_factor":1.0,)"
     R"("eos_token_id":[151329,151336,151338]})"},
    {"glm-4.5",
     R"({"model_type":"glm4_moe","num_hidden_layers":92,"hidden_size":5120,"intermediate_size":12288,)"
     R"("num_attention_heads":96,"num_key_value_heads":8,"head_dim":128,"vocab_size":151552,)"
     R"("max_position_embeddings":131072,"rms_norm_eps":1e-5,"rope_theta":1000000,)"
     R"("partial_rotary_factor":0.5,"attention_bias":true,"use_qk_norm":true,)"
     R"("first_k_dense_replace":3,"n_routed_experts":160,"num_experts_per_tok":8,)"
     R"("n_shared_experts":1,"moe_intermediate_size":1536,"n_group":1,"topk_group":1,)"
     R"("norm_topk_prob":true,"routed_scaling_factor":2.5,)"
     R"("eos_token_id":[151329,151336,151338]})"},
    {"glm-4.7-flash",
     R"({"model_type":"glm4_moe_lite","num_hidden_layers":47,"hidden_size":2048,)"
     R"("intermediate_size":10240,"num_attention_heads":20,"q_lora_rank":768,"kv_lora_rank":512,)"
     R"("qk_nope_head_dim":192,"qk_rope_head_dim":64,"v_head_dim":256,"vocab_size":154880,)"
     R"("max_position_embeddings":202752,"rms_norm_eps":1e-5,"rope_theta":1000000,)"
     R"("first_k_dense_replace":1,"n_routed_experts":64,"num_experts_per_tok":4,)"
     R"("n_shared_experts":1,"moe_intermediate_size":1536,"n_group":1,"topk_group":1,)"
     R"("norm_topk_prob":true,"routed_scaling_factor":1.8,)"
     R"("eos_token_id":[154820,154827,154829]})"},
    // No published model: GLM-4.5's layout at 30 billion parameters, 3 billion of them per token.
    {"glm-moe-30b-a3b",
     R"({"model_type":"glm4_moe","num_hidden_layers":48,"hidden_size":2048,"intermediate_size":6144,)"
     R"("num_attention_heads":32,"num_key_value_heads":4,"head_dim":128,"vocab_size":151552,)"
     R"("max_position_embeddings":131072,"rms_norm_eps":1e-5,"rope_theta":1000000,)"
     R"("partial_rotary_factor":0.5,"attention_bias":false,"use_qk_norm":true,)"
     R"("first_k_dense_replace":1,"n_routed_experts":128,"num_experts_per_tok":8,)"
     R"("n_shared_experts":1,"moe_intermediate_size":768,"n_group":1,"topk_group":1,)"
     R"("norm_topk_prob":true,"routed_scaling_factor":2.5,)"
     R"("eos_token_id":[151329,151336,151338]})"},
    {"cogview-base",
     R"({"model_type":"cogview","num_layers":48,"hidden_size":2560,"num_attention_heads":40})"},
};

}  // namespace

const std::vector<ModelFamily>& ModelFamilies() {
  static const auto* families = new std::vector<ModelFamily>{
      kGlmBlockLmFamily, kGlm130bFamily, kChatGlm6bFamily,   kChatGlm2Family, kGlmFamily,
      kGlm4Family,       kGlm4MoeFamily, kGlm4MoeLiteFamily, kCogViewFamily,
  };
  return *families;
}

absl::StatusOr<const ModelFamily*> FindFamily(const nlohmann::json& config) {
  if (!config.is_object()) {
    return absl::InvalidArgumentError("config.json must be a JSON object");
  }
  std::vector<std::string_view> names;
  for (const ModelFamily& family : ModelFamilies()) {
    const auto type = config.find("model_type");
    const bool has_type = type != config.end() && type->is_string();
    if (has_type && family.matches(config)) return &family;
    names.push_back(family.name);
  }
  const auto type = config.find("model_type");
  const std::string shown =
      type == config.end()
          ? "missing"
          : type->dump(-1, ' ', true, nlohmann::json::error_handler_t::replace).substr(0, 60);
  return absl::InvalidArgumentError(absl::StrFormat(
      "config.json: model_type is %s and its fields match no model family we run (%s)", shown,
      Join(names)));
}

absl::StatusOr<ModelSpec> DescribeModel(std::string_view config_json) {
  const nlohmann::json config = ParseJson(config_json);
  if (config.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "config.json is not valid JSON, or nests deeper than %d levels", kMaxJsonDepth));
  }
  absl::StatusOr<const ModelFamily*> family = FindFamily(config);
  if (!family.ok()) return family.status();
  absl::StatusOr<ModelSpec> spec = (*family)->describe(config);
  if (spec.ok()) spec->config_json = std::string(config_json);
  return spec;
}

absl::StatusOr<std::unique_ptr<Model>> CreateModel(const ModelFile& file) {
  const nlohmann::json config = ParseJson(file.spec.config_json);
  absl::StatusOr<const ModelFamily*> family = FindFamily(config);
  if (!family.ok()) return family.status();
  return (*family)->create(config, file);
}

absl::StatusOr<std::string> ConfigFromGguf(const Gguf& gguf) {
  const std::string architecture = gguf.Text("general.architecture");
  std::vector<std::string_view> names;
  for (const ModelFamily& family : ModelFamilies()) {
    if (family.gguf_architecture.empty()) continue;
    names.push_back(family.gguf_architecture);
    if (family.gguf_architecture != architecture) continue;
    absl::StatusOr<nlohmann::json> config = family.config_from_gguf(gguf);
    if (!config.ok()) return config.status();
    return config->dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "general.architecture is '%.80s'; those that can be read are %s", architecture, Join(names)));
}

absl::StatusOr<std::string> BuiltinConfig(std::string_view name) {
  for (const Builtin& builtin : kBuiltins) {
    if (builtin.name == name) return std::string(builtin.config);
  }
  return absl::NotFoundError(absl::StrFormat(
      "no built-in configuration is called '%s'; there are %s, or give the path of a config.json",
      name, Join(BuiltinConfigNames())));
}

std::vector<std::string_view> BuiltinConfigNames() {
  std::vector<std::string_view> names;
  for (const Builtin& builtin : kBuiltins) names.push_back(builtin.name);
  return names;
}

}  // namespace qianyi
