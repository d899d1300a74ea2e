// The one C++ file: toml++ turned into a plain tree that C can walk.

#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

extern "C" {
#include "sys/toml.h"
}

struct toml_node {
  enum toml_type type = TOML_OTHER;
  int line = 0, column = 0;
  std::string key, text;
  int64_t integer = 0;
  double number = 0;
  bool boolean = false;
  std::vector<std::unique_ptr<toml_node>> children;
};

struct toml_doc {
  toml_node root;
};

static void convert(const toml::node &from, toml_node &to) {
  to.line = static_cast<int>(from.source().begin.line);
  to.column = static_cast<int>(from.source().begin.column);
  if (auto table = from.as_table()) {
    to.type = TOML_TABLE;
    for (auto &&[key, value] : *table) {
      auto child = std::make_unique<toml_node>();
      convert(value, *child);
      child->key = std::string(key.str());
      child->line = static_cast<int>(key.source().begin.line);
      child->column = static_cast<int>(key.source().begin.column);
      to.children.push_back(std::move(child));
    }
    std::stable_sort(to.children.begin(), to.children.end(), [](const auto &a, const auto &b) {
      return a->line != b->line ? a->line < b->line : a->column < b->column;
    });
  } else if (auto array = from.as_array()) {
    to.type = TOML_ARRAY;
    for (auto &&value : *array) {
      to.children.push_back(std::make_unique<toml_node>());
      convert(value, *to.children.back());
    }
  } else if (auto text = from.value_exact<std::string>()) {
    to.type = TOML_STRING;
    to.text = *text;
  } else if (auto integer = from.value_exact<int64_t>()) {
    to.type = TOML_INTEGER;
    to.integer = *integer;
  } else if (auto number = from.value_exact<double>()) {
    to.type = TOML_FLOAT;
    to.number = *number;
  } else if (auto boolean = from.value_exact<bool>()) {
    to.type = TOML_BOOLEAN;
    to.boolean = *boolean;
  }
}

extern "C" {

struct toml_doc *toml_parse_text(const char *text, const char *name, char *error, size_t error_size) {
  try {
    toml::table table = toml::parse(std::string_view(text), std::string_view(name));
    auto doc = std::make_unique<toml_doc>();
    convert(table, doc->root);
    return doc.release();
  } catch (const toml::parse_error &e) {
    std::snprintf(error, error_size, "%s:%d:%d: %s", name, static_cast<int>(e.source().begin.line),
                  static_cast<int>(e.source().begin.column), std::string(e.description()).c_str());
  } catch (const std::exception &e) {
    std::snprintf(error, error_size, "%s: %s", name, e.what());
  }
  return nullptr;
}

static const size_t largest_file = size_t{16} << 20; /* endless ones are among them, such as /dev/zero */

struct toml_doc *toml_parse_file(const char *path, char *error, size_t error_size) {
  std::string text;
  std::FILE *file = std::fopen(path, "rb");
  char piece[4096];
  for (size_t n; file && text.size() <= largest_file && (n = std::fread(piece, 1, sizeof piece, file)) > 0;)
    text.append(piece, n);
  bool read = file && !std::ferror(file); /* a directory opens, and fails here */
  if (!read) std::snprintf(error, error_size, "%s: cannot be read: %s", path, std::strerror(errno));
  if (file) std::fclose(file);
  if (!read) return nullptr;
  if (text.size() > largest_file) {
    std::snprintf(error, error_size, "%s: is larger than %zu MiB: this is no configuration", path,
                  largest_file >> 20);
    return nullptr;
  }
  size_t zero = text.find('\0'); /* where a C string, and the parser, would end in silence */
  if (zero != std::string::npos) {
    auto line = 1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(zero), '\n');
    std::snprintf(error, error_size, "%s:%ld:1: holds a zero byte: this is not a text", path,
                  static_cast<long>(line));
    return nullptr;
  }
  return toml_parse_text(text.c_str(), path, error, error_size);
}

void toml_free(struct toml_doc *doc) {
  delete doc;
}

const struct toml_node *toml_root(const struct toml_doc *doc) {
  return &doc->root;
}
enum toml_type toml_type(const struct toml_node *node) {
  return node->type;
}
int toml_line(const struct toml_node *node) {
  return node->line;
}
int toml_column(const struct toml_node *node) {
  return node->column;
}
size_t toml_count(const struct toml_node *node) {
  return node->children.size();
}
const char *toml_key(const struct toml_node *table, size_t i) {
  return table->children[i]->key.c_str();
}
const struct toml_node *toml_at(const struct toml_node *node, size_t i) {
  return node->children[i].get();
}

const struct toml_node *toml_get(const struct toml_node *table, const char *key) {
  if (!table || table->type != TOML_TABLE) return nullptr;
  for (const auto &child : table->children)
    if (child->key == key) return child.get();
  return nullptr;
}

bool toml_as_string(const struct toml_node *node, const char **out) {
  if (!node || node->type != TOML_STRING) return false;
  *out = node->text.c_str();
  return true;
}

bool toml_as_integer(const struct toml_node *node, int64_t *out) {
  if (!node || node->type != TOML_INTEGER) return false;
  *out = node->integer;
  return true;
}

bool toml_as_double(const struct toml_node *node, double *out) {
  if (!node || (node->type != TOML_FLOAT && node->type != TOML_INTEGER)) return false;
  *out = node->type == TOML_FLOAT ? node->number : static_cast<double>(node->integer);
  return true;
}

bool toml_as_bool(const struct toml_node *node, bool *out) {
  if (!node || node->type != TOML_BOOLEAN) return false;
  *out = node->boolean;
  return true;
}
}
