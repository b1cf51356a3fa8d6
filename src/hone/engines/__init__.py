"""How the processes of a run share the policy that they train."""
