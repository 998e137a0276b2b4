// The models a server answers with.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine.h"
#include "runtime/json/token_trie.h"
#include "runtime/pictures/picture_config.h"
#include "runtime/pictures/vqvae.h"
#include "runtime/plan.h"
#include "runtime/prompts/prompts.h"
#include "runtime/tokenizers/tokenizer.h"
#include "runtime/verse/verse_tokens.h"

namespace qianyi {

// Requests about pictures in progress at once, of all models together.
inline constexpr int64_t kMostPictureCalls = 16;
// What a client's picture may take while it is read, one at a time.
inline constexpr uint64_t kUploadBytes = 48 << 20;

// All but the engine is immutable; every member is thread-safe.
struct ServedModel {
  std::string name;
  std::unique_ptr<Tokenizer> tokenizer;  // or null: then prompts are token ids
  Prompts prompts;
  std::unique_ptr<VerseTokens> verse;      // null without a tokenizer, or of pictures
  std::unique_ptr<TokenTrie> trie;         // likewise
  std::unique_ptr<PictureConfig> picture;  // null: a model of text
  std::unique_ptr<Vqvae> vqvae;            // of a picture model; null when its folder has none
  int64_t created_seconds = 0;             // when it was opened
  int64_t queue = 0;                       // requests that may wait, besides those that run
  Rates rates;                             // of the machine and its disk, 0 where not known
  // Of the engine and of the VQ-VAE; null: it has the processors for itself.
  const ComputeShare::Member* share = nullptr;
  const ComputeShare::Member* picture_share = nullptr;
  std::unique_ptr<Engine> engine;

  const ModelUse& use() const { return engine->plan().models[0].use; }
};

struct ServeModelOptions {
  LoadOptions load;                // of all models together; its batch may be kAutoBatch: measured
  int64_t queue = 64;              // requests that may wait, of each model
  std::string prefix_folder = {};  // for prefixes that memory has no room for,
  uint64_t prefix_bytes = 0;       // on disk, of each model of text; 0: none
  // By which models take turns on the processors, where there are several; null: as they come.
  // Outlives them.
  ComputeShare* share = nullptr;
  bool keeps_prefixes = true;  // of requests, for others that begin the same
  double prompt_stretch = 4;   // see EngineOptions
  bool measures = false;       // the machine's rates, though they be known
  uint64_t upload_bytes = 0;   // besides each model of pictures, for a client's picture
  // Besides what each model's own adapters take, when load.adapter_bytes is 0.
  uint64_t spare_adapter_bytes = 0;
};

// A model still to be loaded, and the name it will have.
struct NamedModelFile {
  std::string name;
  std::string folder;  // empty: no tokenizer
  ModelFile file;
  std::vector<NamedAdapter> adapters = {};  // loaded before the model is served
  double weight = 1;                        // of its share of the processors
  std::string draft_folder = {};            // of the small model that runs ahead of it; empty: none
};

// Opens all within one budget: each gets what it could use, or a fair share where that is
// too much. Errors name the model and say what would help.
absl::StatusOr<std::vector<std::unique_ptr<ServedModel>>> OpenModels(
    std::vector<NamedModelFile> files, const ServeModelOptions& options);

}  // namespace qianyi
