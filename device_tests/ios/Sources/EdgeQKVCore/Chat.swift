// The same as `written` in edgeqkv/run/turns.py: a chat template that writes text around messages, without Jinja.

/// A message of a conversation.
public struct Message: Decodable, Equatable, Sendable {
    /// Who says it.
    public enum Role: String, Decodable, Sendable {
        case system, user, assistant
    }

    public let role: Role
    public let content: String

    public init(role: Role, content: String) {
        self.role = role
        self.content = content
    }
}

/// The text that a chat template writes around messages: `first` before the user's first, `answered` between one and the
/// answer to it, `next` between that and the user's next, `answer` where the model's own begins. With a message of the
/// system, what stands around that takes the place of `first`.
public struct ChatCard: Decodable, Equatable, Sendable {
    public struct System: Decodable, Equatable, Sendable {
        public let before: String
        public let after: String
    }

    public let first: String
    public let answered: String
    public let next: String
    public let answer: String
    /// Whether messages lose the white space at their ends.
    public let trimmed: Bool
    /// nil: the template takes no message of the system.
    public let system: System?

    /// The text of a conversation that begins and ends with the user's message, up to where the answer begins.
    public func written(_ messages: [Message]) throws -> String {
        var text = ""
        var before = first
        for message in messages {
            let content = trimmed ? Self.trim(message.content) : message.content
            switch message.role {
            case .system:
                guard let system else { throw EdgeQKVError("this model's template takes no system message") }
                text += system.before + content
                before = system.after
            case .user:
                text += before + content
                before = answered
            case .assistant:
                text += before + content
                before = next
            }
        }
        return text + answer
    }

    private static func trim(_ text: String) -> String {
        let start = text.drop { $0.isWhitespace }
        return String(start.reversed().drop { $0.isWhitespace }.reversed())
    }
}
