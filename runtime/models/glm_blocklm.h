#pragma once

#include "runtime/models/registry.h"

namespace qianyi {

extern const ModelFamily kGlmBlockLmFamily;

}  // namespace qianyi
