#include "runtime/json/json_schema.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

using Kind = JsonSchema::Kind;
using Node = JsonSchema::Node;

constexpr int kMaxDepth = 32;           // of the schema's own nesting
constexpr size_t kMaxValues = 2048;     // subschemas
constexpr size_t kMaxBytes = 64 << 10;  // of keys and literals
constexpr size_t kMaxProperties = 256;  // of one object
constexpr size_t kMaxAlternatives = 16;
constexpr size_t kMaxReferences = 128;  // on the way to a value
constexpr int64_t kMaxCount = 65536;    // that minItems and the like may ask for
constexpr int32_t kNever = 1000;        // the height of what cannot be written

constexpr std::array kTypes = {"object", "array", "string", "number", "integer", "boolean", "null"};

using Names = std::set<std::string_view>;

const Names& Annotations() {
  static const Names names = {"title",    "description", "default",  "examples",  "$schema",
                              "$comment", "deprecated",  "readOnly", "writeOnly", "$id"};
  return names;
}

class Compiler {
 public:
  explicit Compiler(const OrderedJson& root) : root_(root) {}

  absl::StatusOr<JsonSchema> Compile() {
    out_.root = NewValue();
    Into(out_.root, root_, "schema", 0);
    if (status_.ok()) Flatten();
    if (!status_.ok()) return status_;
    FindHeights();
    if (out_.heights[Index(out_.root)] > JsonSchema::kMaxHeight) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "schema can never be satisfied: it needs more than %d objects or lists within each other",
          JsonSchema::kMaxHeight));
    }
    return std::move(out_);
  }

  JsonSchema AnyObject() {
    const int32_t any = AnyValue();
    out_.root = NewValue();
    drafts_[Index(out_.root)].nodes = {drafts_[Index(any)].nodes[0]};
    Flatten();
    FindHeights();
    return std::move(out_);
  }

 private:
  struct Draft {
    std::vector<int32_t> nodes;
    std::vector<int32_t> values;  // whose alternatives are its own too
  };

  static size_t Index(int32_t i) { return static_cast<size_t>(i); }

  void Fail(const std::string& where, const std::string& what) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(where, " ", what));
  }
  void Unsupported(const std::string& where, const std::string& name) {
    Fail(where,
         absl::StrCat("has ", name.substr(0, 50), ", which is not supported here; remove it"));
  }

  int32_t NewValue() {
    if (drafts_.size() == kMaxValues) {
      Fail("schema", absl::StrFormat("has more than %d parts; make it smaller", kMaxValues));
      return 0;
    }
    drafts_.emplace_back();
    return static_cast<int32_t>(drafts_.size()) - 1;
  }
  int32_t AddNode(Node node) {
    out_.nodes.push_back(std::move(node));
    return static_cast<int32_t>(out_.nodes.size()) - 1;
  }
  void Need(std::string_view characters) {
    bytes_ += characters.size();
    if (bytes_ > kMaxBytes) {
      Fail("schema", absl::StrFormat("has more than %d bytes of names and values", kMaxBytes));
      return;
    }
    out_.needed += characters;
  }

  int32_t Sub(const OrderedJson& schema, const std::string& where, int depth) {
    const int32_t value = NewValue();
    if (status_.ok()) Into(value, schema, where, depth + 1);
    return value;
  }

  void Into(int32_t value, const OrderedJson& schema, const std::string& where, int depth);
  void Only(const OrderedJson& schema, const std::string& where, const Names& names);
  void Reference(int32_t value, const OrderedJson& schema, const std::string& where);
  void AnyOf(int32_t value, const OrderedJson& schema, const std::string& where, int depth);
  void Literals(int32_t value, const OrderedJson& schema, const std::string& where);
  void Typed(int32_t value, const OrderedJson& schema, const std::string& where, int depth);
  Node OfType(std::string_view type, const OrderedJson& schema, const std::string& where,
              int depth);
  Names TypesOf(const OrderedJson& schema, const std::string& where);
  void Object(Node* node, const OrderedJson& schema, const std::string& where, int depth);
  void Require(Node* node, const std::vector<std::string>& names, const OrderedJson& schema,
               const std::string& where);
  int32_t Count(const OrderedJson& schema, const char* name, int32_t otherwise,
                const std::string& where);
  int32_t AnyValue();
  void Flatten();
  void FindHeights();
  int32_t HeightOf(const Node& node) const;

  const OrderedJson& root_;
  JsonSchema out_;
  std::vector<Draft> drafts_;  // by value
  std::map<std::string, int32_t> definitions_;
  int32_t any_ = JsonSchema::kNone;
  size_t bytes_ = 0;
  absl::Status status_;
};

void Compiler::Into(int32_t value, const OrderedJson& schema, const std::string& where, int depth) {
  if (depth > kMaxDepth) {
    Fail(where, absl::StrFormat("is nested more than %d deep", kMaxDepth));
    return;
  }
  if (schema.is_boolean() && schema.get<bool>()) {
    const int32_t any = AnyValue();
    drafts_[Index(value)].values = {any};
    return;
  }
  if (!schema.is_object()) {
    Fail(where, "must be an object");
    return;
  }
  if (schema.contains("$defs") && depth > 0) Unsupported(where, "$defs below the root");
  if (schema.contains("$ref")) {
    Reference(value, schema, where);
  } else if (schema.contains("anyOf")) {
    AnyOf(value, schema, where, depth);
  } else if (schema.contains("enum") || schema.contains("const")) {
    Literals(value, schema, where);
  } else {
    Typed(value, schema, where, depth);
  }
}

// Refuses every keyword but these and what only describes.
void Compiler::Only(const OrderedJson& schema, const std::string& where, const Names& names) {
  for (const auto& [name, unused] : schema.items()) {
    if (names.count(name) != 0 || name == "$defs" || Annotations().count(name) != 0) continue;
    Unsupported(where, name);
    return;
  }
}

void Compiler::Reference(int32_t value, const OrderedJson& schema, const std::string& where) {
  constexpr std::string_view kPrefix = "#/$defs/";
  Only(schema, where, {"$ref"});
  const OrderedJson& target = Member(schema, "$ref");
  const std::string path = target.is_string() ? target.get<std::string>() : "";
  if (path == "#") {
    drafts_[Index(value)].values = {out_.root};
    return;
  }
  const OrderedJson& definitions = Member(root_, "$defs");
  const std::string name = path.starts_with(kPrefix) ? path.substr(kPrefix.size()) : "";
  if (name.empty() || !definitions.is_object() || !definitions.contains(name)) {
    Fail(where, "has a $ref that is neither # nor #/$defs/ and a name that is there");
    return;
  }
  auto [at, added] = definitions_.emplace(name, JsonSchema::kNone);
  if (added) {
    const int32_t defined = NewValue();
    at->second = defined;  // first, as it may refer to itself
    if (status_.ok()) {
      Into(defined, definitions[name], absl::StrCat("schema.$defs.", name.substr(0, 50)), 1);
    }
  }
  drafts_[Index(value)].values = {at->second};
}

void Compiler::AnyOf(int32_t value, const OrderedJson& schema, const std::string& where,
                     int depth) {
  Only(schema, where, {"anyOf"});
  const OrderedJson& list = Member(schema, "anyOf");
  if (!list.is_array() || list.empty() || list.size() > kMaxAlternatives) {
    Fail(where,
         absl::StrFormat("has an anyOf that is no list of 1 to %d schemas", kMaxAlternatives));
    return;
  }
  for (size_t i = 0; i < list.size() && status_.ok(); ++i) {
    const int32_t part = Sub(list[i], absl::StrCat(where, ".anyOf[", i, "]"), depth);
    drafts_[Index(value)].values.push_back(part);
  }
}

bool HasType(const OrderedJson& value, const Names& types) {
  if (types.count("number") != 0 && value.is_number()) return true;
  if (types.count("integer") != 0 && value.is_number_integer()) return true;
  if (types.count("string") != 0 && value.is_string()) return true;
  if (types.count("boolean") != 0 && value.is_boolean()) return true;
  return types.count("null") != 0 && value.is_null();
}

void Compiler::Literals(int32_t value, const OrderedJson& schema, const std::string& where) {
  Only(schema, where, {"enum", "const", "type"});
  const bool constant = schema.contains("const");
  OrderedJson list = constant ? OrderedJson::array({schema["const"]}) : schema["enum"];
  if (!list.is_array()) {
    Fail(where, "has an enum that is no list");
    return;
  }
  const Names types =
      schema.contains("type") ? TypesOf(schema, where) : Names(kTypes.begin(), kTypes.end());
  const OrderedJson& allowed = Member(schema, "enum");
  Node node;
  for (const OrderedJson& entry : list) {
    if (entry.is_structured()) {
      Fail(where, "has an object or a list in enum or const; only simple values are supported");
      return;
    }
    const bool in_both = !constant || !allowed.is_array() ||
                         std::find(allowed.begin(), allowed.end(), entry) != allowed.end();
    if (!in_both || !HasType(entry, types)) continue;
    node.literals.push_back(entry.dump(-1, ' ', false, OrderedJson::error_handler_t::replace));
    Need(node.literals.back());
  }
  if (node.literals.empty()) Fail(where, "has an enum or const that nothing satisfies");
  std::sort(node.literals.begin(), node.literals.end());
  node.literals.erase(std::unique(node.literals.begin(), node.literals.end()), node.literals.end());
  drafts_[Index(value)].nodes = {AddNode(std::move(node))};
}

Names Compiler::TypesOf(const OrderedJson& schema, const std::string& where) {
  const OrderedJson& type = Member(schema, "type");
  const OrderedJson list = type.is_string() ? OrderedJson::array({type}) : type;
  Names types;
  bool good = list.is_array() && !list.empty();
  for (size_t i = 0; good && i < list.size(); ++i) {
    const auto known = std::find_if(kTypes.begin(), kTypes.end(),
                                    [&](const char* name) { return list[i] == name; });
    good = known != kTypes.end();
    if (good) types.insert(*known);
  }
  if (!good) {
    Fail(where,
         "has a type that is none of object, array, string, number, integer, boolean, null, "
         "nor a list of these");
  }
  return types;
}

// Without a type, it is that of the keywords there are.
void Compiler::Typed(int32_t value, const OrderedJson& schema, const std::string& where,
                     int depth) {
  Only(schema, where,
       {"type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems",
        "minLength", "maxLength"});
  const auto any_of = [&](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(),
                       [&](const char* name) { return schema.contains(name); });
  };
  Names types;
  if (schema.contains("type")) {
    types = TypesOf(schema, where);
  } else {
    if (any_of({"properties", "required", "additionalProperties"})) types.insert("object");
    if (any_of({"items", "minItems", "maxItems"})) types.insert("array");
    if (any_of({"minLength", "maxLength"})) types.insert("string");
  }
  if (!status_.ok()) return;
  if (types.empty()) {
    const int32_t any = AnyValue();
    drafts_[Index(value)].values = {any};
    return;
  }
  if (types.count("number") != 0) types.erase("integer");
  for (const std::string_view type : types) {
    Node node = OfType(type, schema, where, depth);
    if (node.least > node.most) Fail(where, "has a least number above the most");
    if (!status_.ok()) return;
    const int32_t added = AddNode(std::move(node));
    drafts_[Index(value)].nodes.push_back(added);
  }
}

Node Compiler::OfType(std::string_view type, const OrderedJson& schema, const std::string& where,
                      int depth) {
  Node node;
  if (type == "object") {
    node.kind = Kind::kObject;
    Object(&node, schema, where, depth);
  } else if (type == "array") {
    node.kind = Kind::kArray;
    node.least = Count(schema, "minItems", 0, where);
    node.most = Count(schema, "maxItems", JsonSchema::kUnlimited, where);
    node.items =
        schema.contains("items") ? Sub(schema["items"], where + ".items", depth) : AnyValue();
    Need("[],");
  } else if (type == "string") {
    node.kind = Kind::kString;
    node.least = Count(schema, "minLength", 0, where);
    node.most = Count(schema, "maxLength", JsonSchema::kUnlimited, where);
    Need("\"0");
  } else if (type == "number" || type == "integer") {
    node.kind = type == "number" ? Kind::kNumber : Kind::kInteger;
    Need("0123456789");
  } else {
    node.literals = {"null"};
    if (type == "boolean") node.literals = {"false", "true"};
    for (const std::string& literal : node.literals) Need(literal);
  }
  return node;
}

int32_t Compiler::Count(const OrderedJson& schema, const char* name, int32_t otherwise,
                        const std::string& where) {
  const OrderedJson& count = Member(schema, name);
  if (!schema.contains(name)) return otherwise;
  const bool good = count.is_number_unsigned() && count.get<uint64_t>() <= kMaxCount;
  if (good) return count.get<int32_t>();
  Fail(where, absl::StrFormat("has a %s that is no whole number from 0 to %d", name, kMaxCount));
  return otherwise;
}

void Compiler::Object(Node* node, const OrderedJson& schema, const std::string& where, int depth) {
  Need("{}\":,");
  const OrderedJson& properties = Member(schema, "properties");
  if (!properties.is_null() && (!properties.is_object() || properties.size() > kMaxProperties)) {
    Fail(where, absl::StrFormat("has properties that are no object of at most %d", kMaxProperties));
    return;
  }
  std::vector<std::string> names;
  for (const auto& [name, property] : properties.items()) {
    if (!status_.ok()) return;
    const int32_t value =
        Sub(property, absl::StrCat(where, ".properties.", name.substr(0, 50)), depth);
    const std::string quoted =
        OrderedJson(name).dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
    node->keys.push_back({quoted.substr(1), static_cast<int32_t>(names.size())});
    Need(node->keys.back().text);
    node->properties.push_back(value);
    names.push_back(name);
  }
  std::sort(node->keys.begin(), node->keys.end(),
            [](const auto& a, const auto& b) { return a.text < b.text; });
  Require(node, names, schema, where);
  const OrderedJson& additional = Member(schema, "additionalProperties");
  if (additional == false) return;
  node->additional =
      additional.is_object() ? Sub(additional, where + ".additionalProperties", depth) : AnyValue();
  if (!additional.is_object() && !additional.is_null() && additional != true) {
    Fail(where, "has additionalProperties that are neither true, false nor a schema");
  }
}

void Compiler::Require(Node* node, const std::vector<std::string>& names, const OrderedJson& schema,
                       const std::string& where) {
  const OrderedJson& list = Member(schema, "required");
  if (!list.is_null() && !list.is_array()) {
    Fail(where, "has a required that is no list");
    return;
  }
  std::set<std::string> required;
  for (const OrderedJson& name : list) {
    if (!name.is_string() ||
        std::find(names.begin(), names.end(), name.get<std::string>()) == names.end()) {
      Fail(where, "requires a name that its properties do not have; add it to them");
      return;
    }
    required.insert(name.get<std::string>());
  }
  const size_t count = names.size();
  node->required.assign(count + 1, static_cast<int32_t>(count));
  for (size_t i = count; i-- > 0;) {
    const bool here = required.count(names[i]) != 0;
    node->required[i] = here ? static_cast<int32_t>(i) : node->required[i + 1];
  }
}

// Objects first: AnyObject takes that one.
int32_t Compiler::AnyValue() {
  if (any_ != JsonSchema::kNone) return any_;
  any_ = NewValue();
  if (!status_.ok()) return any_;
  Node object, list, string, number, literals;
  object.kind = Kind::kObject;
  object.required = {0};
  object.additional = any_;
  list.kind = Kind::kArray;
  list.items = any_;
  string.kind = Kind::kString;
  number.kind = Kind::kNumber;
  literals.literals = {"false", "null", "true"};
  Need("{}[]\":,0123456789falsenulltrue");
  std::vector<int32_t> nodes;
  for (Node* node : {&object, &list, &string, &number, &literals}) {
    nodes.push_back(AddNode(std::move(*node)));
  }
  drafts_[Index(any_)].nodes = std::move(nodes);
  return any_;
}

// Alternatives of alternatives, each once.
void Compiler::Flatten() {
  out_.values.resize(drafts_.size());
  for (size_t value = 0; value < drafts_.size(); ++value) {
    std::set<int32_t> seen, nodes;
    std::vector<int32_t> open = {static_cast<int32_t>(value)};
    while (!open.empty()) {
      const int32_t at = open.back();
      open.pop_back();
      if (!seen.insert(at).second) continue;
      if (seen.size() > kMaxReferences) {
        Fail("schema",
             absl::StrFormat("has a value behind more than %d references", kMaxReferences));
        return;
      }
      const Draft& draft = drafts_[Index(at)];
      nodes.insert(draft.nodes.begin(), draft.nodes.end());
      open.insert(open.end(), draft.values.begin(), draft.values.end());
    }
    if (nodes.size() > kMaxAlternatives) {
      Fail("schema", absl::StrFormat("has a value of %d alternatives; at most %d are supported",
                                     nodes.size(), kMaxAlternatives));
      return;
    }
    out_.values[value].assign(nodes.begin(), nodes.end());
  }
}

int32_t Compiler::HeightOf(const Node& node) const {
  int32_t inside = 0;
  if (node.kind == Kind::kArray && node.least > 0) inside = out_.heights[Index(node.items)];
  if (node.kind == Kind::kObject) {
    for (size_t i = 0; i < node.properties.size(); ++i) {
      if (node.required[i] != static_cast<int32_t>(i)) continue;
      inside = std::max(inside, out_.heights[Index(node.properties[i])]);
    }
  }
  const bool container = node.kind == Kind::kObject || node.kind == Kind::kArray;
  return std::min(kNever, inside + (container ? 1 : 0));
}

// Heights above the limit are all one: so many rounds find the others.
void Compiler::FindHeights() {
  out_.heights.assign(out_.values.size(), kNever);
  for (int round = 0; round <= JsonSchema::kMaxHeight + 1; ++round) {
    for (Node& node : out_.nodes) node.height = HeightOf(node);
    for (size_t value = 0; value < out_.values.size(); ++value) {
      for (const int32_t node : out_.values[value]) {
        out_.heights[value] = std::min(out_.heights[value], out_.nodes[Index(node)].height);
      }
    }
  }
  for (Node& node : out_.nodes) node.height = HeightOf(node);
}

}  // namespace

absl::StatusOr<JsonSchema> CompileJsonSchema(const OrderedJson& schema) {
  return Compiler(schema).Compile();
}

JsonSchema AnyJsonObject() {
  const OrderedJson unused;
  return Compiler(unused).AnyObject();
}

}  // namespace qianyi
