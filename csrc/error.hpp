// What the kernels throw. Each kind becomes one class of mqnative.errors; the fields become its attributes.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace mqn {

enum class ErrorKind {
  shape,
  non_finite,
  unsupported_type,
  imatrix,
  quantize,
  model_load,
  backend,
  cancelled
};

using FieldValue = std::variant<int64_t, std::string>;
using Fields = std::vector<std::pair<std::string, FieldValue>>;

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message, Fields fields = {})
      : std::runtime_error(message), kind_(kind), fields_(std::move(fields)) {}

  ErrorKind kind() const { return kind_; }
  const Fields& fields() const { return fields_; }

 private:
  ErrorKind kind_;
  Fields fields_;
};

}  // namespace mqn
