"""Conditions in CEL: judged when they are saved, evaluated when somebody asks for a certificate."""

from certloom.policy.expressions.condition import Condition, EvaluationError, compile_condition
from certloom.policy.expressions.syntax import ExpressionError

__all__ = ["Condition", "EvaluationError", "ExpressionError", "compile_condition"]
