// What a request costs while it waits and runs, and what the log says of it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/engine.h"
#include "server/admission.h"
#include "server/served_model.h"
#include "server/text_request.h"

namespace qianyi {

// A line for each model, which holds so many `tokens`; 0 = those of as many full contexts.
std::vector<Admission::LineLimit> LinesOf(std::span<const std::unique_ptr<ServedModel>> models,
                                          int64_t tokens);

// What all models' requests may hold: `bytes`, or 0 = 64 MiB, and where contexts are so long that
// this would not fill the places, enough for twice as many.
int64_t MemoryOf(std::span<const std::unique_ptr<ServedModel>> models, int64_t bytes);

// What choices hold until they end, once their prompt and length are known.
Load LoadOf(const GenerateRequest& request, int64_t choices);

// The beginning of the line of a generation; with what users wrote, if asked for.
nlohmann::ordered_json LogLine(const TextRequest& request, const std::string& model_name,
                               bool prompts);

}  // namespace qianyi
