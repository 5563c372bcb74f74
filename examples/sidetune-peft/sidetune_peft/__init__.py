"""Parameter-efficient fine-tuning by Hugging Face's peft, as a learner."""
